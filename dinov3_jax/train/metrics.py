"""What a run writes down: JSON lines, TensorBoard, a progress bar."""

import collections
import contextlib
import json
import math
import time

from etils import epath
from tensorboardX import SummaryWriter
from tqdm import tqdm


class MetricsWriter:
    """Rows of scalars to ``workdir/metrics.jsonl`` and TensorBoard."""

    def __init__(self, workdir: epath.Path):
        self._workdir = workdir
        self._board: SummaryWriter | None = None

    def rewind(self, step: int) -> None:
        """Call once before writing: drops rows after ``step``, which a resumed run writes again.

        Step 0 drops all. The file is replaced whole, so that a full disk costs no history.
        """
        rows = read_metrics(self._workdir, before=step) if step else []
        path = self._workdir / "metrics.jsonl"
        if path.exists():
            write_whole(path, "".join(_line(row) for row in rows))
        self._board = SummaryWriter(str(self._workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, row: dict[str, float]) -> None:
        """Appends {"step", "time", **row}; NaN and infinities are kept as JSON's null."""
        if self._board is None:
            raise RuntimeError("rewind() was not called")
        with (self._workdir / "metrics.jsonl").open("a") as file:
            file.write(_line({"step": step, "time": round(time.time(), 3), **row}))
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
            rows.append({k: math.nan if v is None else v for k, v in row.items()})
    return rows


def write_whole(path: epath.Path, text: str) -> None:
    """Replaces ``path`` by ``text`` or leaves it as it was: a full disk or a kill loses nothing."""
    draft = path.parent / (path.name + ".new")
    draft.write_text(text)
    draft.replace(path)


def _line(row):
    return json.dumps({k: v if math.isfinite(v) else None for k, v in row.items()}) + "\n"


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


def progress_bar(start: int, steps: int, *, shown: bool = True) -> tqdm:
    """Steps done, rate and time left on one line of the terminal, or nothing."""
    if not shown:
        return tqdm(disable=True)
    return tqdm(
        total=steps,
        initial=start,
        unit="step",
        dynamic_ncols=True,
        mininterval=1.0,
    )


class Clock:
    """Images a second and the share of time spent waiting for data, since the last row."""

    def __init__(self, images: int, step: int):
        self._images = images
        self.restart(step)

    def restart(self, step: int) -> None:
        """Starts anew after ``step`` steps."""
        self._since, self._wait, self._step = time.perf_counter(), 0.0, step

    @contextlib.contextmanager
    def waiting(self):
        start = time.perf_counter()
        yield
        self._wait += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self):
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def rates(self, step: int) -> dict[str, float]:
        """The row's rates after ``step`` steps; ``data_wait`` is a share of the time, 0 to 1."""
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        row = {
            "images_per_second": (step - self._step) * self._images / elapsed,
            "data_wait": min(self._wait / elapsed, 1.0),
            "images_seen": float(step * self._images),
        }
        self.restart(step)
        return row
