"""What a run writes down: JSON lines, TensorBoard, a progress bar."""

import collections
import json
import math
import time

from etils import epath
from tensorboardX import SummaryWriter
from tqdm import tqdm


class MetricsWriter:
    """Rows of scalars to ``metrics.jsonl`` and TensorBoard; on every process but one it is idle."""

    def __init__(self, workdir: epath.Path, *, active: bool = True):
        self._path = workdir / "metrics.jsonl" if active else None
        self._board = SummaryWriter(str(workdir / "tensorboard")) if active else None

    def write(self, step: int, row: dict[str, float]) -> None:
        """Appends {"step", "time", **row}; NaN and infinities are kept as JSON's null."""
        if self._path is None or self._board is None:
            return
        finite = {k: v if math.isfinite(v) else None for k, v in row.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **finite})
        with self._path.open("a") as file:
            file.write(line + "\n")
        for name, value in row.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def read_metrics(workdir: epath.Path, *, before: int | None = None) -> list[dict]:
    """All complete rows so far (those of steps <= ``before``); null becomes NaN."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the half line of a killed run
        if before is None or row["step"] <= before:
            rows.append({k: float("nan") if v is None else v for k, v in row.items()})
    return rows


def truncate_metrics(workdir: epath.Path, step: int) -> None:
    """Drops rows after ``step``: a resumed run writes them again."""
    rows = read_metrics(workdir, before=step)
    text = "".join(
        json.dumps({k: v if math.isfinite(v) else None for k, v in row.items()}) + "\n"
        for row in rows
    )
    if rows or (workdir / "metrics.jsonl").exists():
        (workdir / "metrics.jsonl").write_text(text)


class Window:
    """Means of the finite values since the last row, and how many values were not finite."""

    def __init__(self):
        self._sums = collections.defaultdict(float)
        self._counts = collections.Counter()
        self._bad = 0

    def add(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            if math.isfinite(value):
                self._sums[name] += value
                self._counts[name] += 1
            else:
                self._counts[name] += 0
                self._bad += 1

    def means(self) -> dict[str, float]:
        """The means, NaN where no value was finite; forgets everything."""
        row = {k: self._sums[k] / n if n else math.nan for k, n in self._counts.items()}
        if self._bad:
            row["nonfinite_values"] = float(self._bad)
        self.__init__()
        return row


def progress_bar(start: int, steps: int, *, active: bool = True) -> tqdm:
    """Steps done, rate and time left on one line of the terminal."""
    return tqdm(
        total=steps,
        initial=start,
        unit="step",
        disable=not active,
        dynamic_ncols=True,
        mininterval=1.0,
    )
