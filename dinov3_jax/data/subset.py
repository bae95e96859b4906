"""Some records of another source."""

import dataclasses

import numpy as np

from dinov3_jax.data.record import Record, Source, fingerprint


@dataclasses.dataclass(frozen=True, eq=False)
class SubsetSource:
    """The records ``rows`` int64 [n] of ``source``, in that order."""

    source: Source
    rows: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    fingerprint: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.rows[index])]


def subset(source: Source, rows: np.ndarray) -> SubsetSource:
    """``rows`` [n >= 1] integers from 0 to len(source) - 1; ``ValueError`` for others."""
    rows = np.asarray(rows, np.int64)
    if rows.size == 0 or rows.min() < 0 or rows.max() >= len(source):
        span = f"{rows.min()}..{rows.max()}" if rows.size else "nothing"
        raise ValueError(f"rows span {span}, wanted numbers from 0 to {len(source) - 1}")
    return SubsetSource(
        source,
        rows,
        None if source.labels is None else source.labels[rows],
        source.classes,
        fingerprint([source.fingerprint, *map(str, rows.tolist())]),
    )
