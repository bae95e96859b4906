"""The images that ``dinov3 curate`` chose of a pool, read where the pool lies: its manifest.

{"id": "a.jpg", "source": "folder photos", "record": 7, ...}
"""

import dataclasses
import json
import os
from collections.abc import Callable

import numpy as np

from dinov3_jax.data.record import Record, Source, SourceError
from dinov3_jax.data.subset import SubsetSource, subset


@dataclasses.dataclass(frozen=True, eq=False)
class CuratedSource:
    """Records of the pool in the order of the lines; labels and classes are the pool's."""

    images: SubsetSource
    ids: tuple[str, ...]

    @property
    def labels(self) -> np.ndarray | None:
        return self.images.labels

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.images.classes

    @property
    def fingerprint(self) -> str:
        return self.images.fingerprint

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        record = self.images[index]
        if record.id != self.ids[index]:
            raise SourceError(
                f"the pool has {record.id!r} where {self.ids[index]!r} was chosen; put the pool of "
                "the curation back, or curate this one"
            )
        return record


def open_curated(path: str, open_pool: Callable[[str, str], Source]) -> CuratedSource:
    """Source of a ``manifest.jsonl``; ``open_pool`` opens the pool by its kind and path."""
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.isfile(path):
        raise SourceError(f"there is no file {path}; wanted the manifest.jsonl of a curation")
    pools, records, ids = set(), [], []
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                pools.add(row["source"])
                records.append(int(row["record"]))
                ids.append(row["id"])
            except (KeyError, TypeError, ValueError) as error:
                raise SourceError(
                    f"{path}, line {number} is not of a curation ({error!r}): wanted id, source "
                    "and record; data.source = 'manifest' reads lines with path"
                ) from error
    if len(pools) != 1:
        raise SourceError(f"{path} speaks of {len(pools)} pools, wanted lines of one curation")
    kind, _, place = pools.pop().partition(" ")
    pool = open_pool(kind, place)
    if max(records) >= len(pool):
        raise SourceError(
            f"{path} has record {max(records)}, its pool {kind} {place} has {len(pool)}; put the "
            "pool of the curation back"
        )
    return CuratedSource(subset(pool, np.array(records)), tuple(ids))
