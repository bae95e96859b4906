"""Parquet files with a column ``image``, as Hugging Face data sets are stored."""

import dataclasses
import functools
import glob
import os
from typing import Any

import numpy as np

from dinov3_jax.data.record import Record, SourceError, check_ids, fingerprint

_GROUPS = 4  # row groups held in memory by a process


@dataclasses.dataclass(frozen=True, eq=False)
class ParquetSource:
    """Rows in the order of the files. A read takes its whole row group: read rows in order."""

    groups: tuple[tuple[str, int], ...]  # file and number of each row group
    ends: np.ndarray  # int64 [groups], rows up to and including each
    ids: tuple[str, ...]
    labels: np.ndarray | None
    fingerprint: str
    classes: None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        group = int(np.searchsorted(self.ends, index, side="right"))
        start = int(self.ends[group - 1]) if group else 0
        image = _images(*self.groups[group])[index - start].as_py()
        if isinstance(image, dict):  # Hugging Face: {"bytes": .., "path": ..}
            image = image["bytes"]
        if image is None:
            raise ValueError("the row has no image bytes")
        label = None if self.labels is None else int(self.labels[index])
        return Record(image, self.ids[index], label)


def open_parquet(path: str) -> ParquetSource:
    """Source of the Parquet files that ``path``, a name or a glob, matches.

    Columns: ``image``, bytes or a struct with ``bytes``; perhaps ``label``, integers; perhaps
    ``id``, strings, else an id is "FILE/ROW".
    """
    parquet = _pyarrow_parquet()
    files = sorted(glob.glob(os.path.abspath(os.path.expanduser(path)), recursive=True))
    if not files:
        raise SourceError(f"no files match {path}; correct the path (a glob in quotes)")
    root = os.path.commonpath([os.path.dirname(name) for name in files])
    groups, ends, ids, labels = [], [], [], []
    for name in files:
        try:
            file = parquet.ParquetFile(name)
        except ValueError as error:  # pyarrow.ArrowInvalid
            raise SourceError(f"{name} is no whole Parquet file: {error}") from error
        columns = file.schema_arrow.names
        if "image" not in columns:
            raise SourceError(f"{name} has the columns {columns}, wanted image; rename one")
        for number in range(file.num_row_groups):
            groups.append((name, number))
            ends.append(file.metadata.row_group(number).num_rows)
        chosen = [column for column in ("id", "label") if column in columns]
        table = file.read(columns=chosen).to_pydict()
        rows = file.metadata.num_rows
        short = os.path.relpath(name, root)
        ids += table.get("id", [f"{short}/{row}" for row in range(rows)])
        labels += table.get("label", [None] * rows)
    check_ids(ids, path)
    missing = sum(not isinstance(label, int) for label in labels)
    if missing and any(label is not None for label in labels):
        raise SourceError(
            f"{missing} of {len(labels)} rows of {path} have no integer label; wanted all or none"
        )
    return ParquetSource(
        groups=tuple(groups),
        ends=np.cumsum(ends, dtype=np.int64),
        ids=tuple(ids),
        labels=None if missing else np.array(labels, np.int32),
        fingerprint=fingerprint(f"{id_} {label}" for id_, label in zip(ids, labels)),
    )


@functools.lru_cache(_GROUPS)
def _images(file: str, group: int) -> Any:
    return _pyarrow_parquet().ParquetFile(file).read_row_group(group, columns=["image"])["image"]


def _pyarrow_parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SourceError(
            "reading Parquet needs pyarrow: pip install 'dinov3_jax[parquet]'"
        ) from error
    return parquet
