"""Embeddings of a source of images: made once, then read from disk row by row."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.curate.recipe import EmbedConfig
from dinov3_jax.data.sources import Source
from dinov3_jax.features import store
from dinov3_jax.features.job import write_features
from dinov3_jax.features.whitening import Whitening, whiten
from dinov3_jax.models.model import Model


class UnitRows:
    """Rows [n, D] float32 of length 1, of arrays one after another: what ``curation`` calls points.

    Slices and integer arrays of rows are read (of memory maps: from disk) when they are asked for.
    A row of zeros stays one. With a ``whitening`` they are whitened, to length 1 again.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self, arrays: list[np.ndarray], rows: np.ndarray, whitening: Whitening | None = None
    ):
        self.arrays, self.rows = arrays, rows  # rows [n] of the arrays put together
        self.whitening = whitening
        self._ends = np.cumsum([len(array) for array in arrays])
        self._width = arrays[0].shape[1]
        self.shape = (len(rows), self._width if whitening is None else len(whitening.projection.T))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        rows = self.rows[index]
        found = np.empty((len(rows), self._width), np.float32)
        which = np.searchsorted(self._ends, rows, side="right")
        for part in np.unique(which).tolist():
            here = which == part
            first = self._ends[part] - len(self.arrays[part])
            found[here] = self.arrays[part][rows[here] - first]
        length = np.linalg.norm(found, axis=1, keepdims=True)
        found /= np.where(length > 0, length, 1)
        return found if self.whitening is None else whiten(self.whitening, found)

    def take(self, rows: np.ndarray) -> "UnitRows":
        """Only these rows."""
        return UnitRows(self.arrays, self.rows[rows], self.whitening)

    def whitened(self, whitening: Whitening) -> "UnitRows":
        """The same rows, whitened."""
        return UnitRows(self.arrays, self.rows, whitening)


def join(sets: list[UnitRows]) -> UnitRows:
    """Rows of one set after those of another."""
    before = np.cumsum([0, *(sum(map(len, one.arrays)) for one in sets)])
    return UnitRows(
        [array for one in sets for array in one.arrays],
        np.concatenate([one.rows + start for one, start in zip(sets, before)]),
    )


class Embedded(NamedTuple):
    """The readable images of a source, in its order."""

    points: Any  # [n, D], UnitRows
    records: np.ndarray  # int64 [n], their numbers in the source
    parts: np.ndarray  # int32 [n], the part files they lie in
    ids: list[str]
    unreadable: list[tuple[str, str]]  # (id, why) of the others
    digest: str  # hex sha256 of what made them, model, images, settings, and of their sums


def embed(
    model: Model,
    source: Source,
    folder: Path,
    settings: EmbedConfig,
    *,
    mesh: Mesh,
    share: tuple[int, int] = (0, 1),
) -> None:
    """CLS features of ``source`` into ``folder``, part by part; parts that are there stay.

    ``share`` and errors as ``features.job.write_features``: ``ConfigError`` if the folder is of
    another model, other images or settings, ``SourceError`` when more than half of the images
    cannot be read.
    """
    wanted = store.Settings(
        tokens="cls",
        layers=None,
        size=(settings.size, settings.size),
        fit=settings.fit,
        dtype=settings.dtype,
        format="npy",
        part=settings.part,
    )
    write_features(model, source, folder, wanted, mesh=mesh, batch=settings.batch, share=share)


def read_embedded(folder: Path) -> Embedded:
    """What ``embed`` has written; ``ConfigError`` unless all parts are there and as they were.

    Reads every byte once, to compare it with the sums in the index.
    """
    digest = hashlib.sha256((folder / "features.json").read_bytes())
    arrays, places, records, parts, ids, unreadable = [], [], [], [], [], []
    number, before = -1, 0
    for rows, files in store.read_parts(folder, ["cls"]):
        store.check_sums(folder, rows, files)
        digest.update(repr(rows).encode("utf-8", "surrogateescape"))
        starts = {}
        for stem, file in files.items():
            starts[stem] = before
            before += len(file["cls"])
            arrays.append(file["cls"])
        for row in rows:
            number += 1
            if "file" not in row:
                unreadable.append((row["path"], row["error"]))
                continue
            places.append(starts[row["file"]] + row["row"])
            records.append(number)
            parts.append(row["part"])
            ids.append(row["path"])
    widths = {array.shape[1:] for array in arrays}
    if len(widths) > 1:
        raise ConfigError(
            f"{folder} has embeddings of the shapes {sorted(widths)}; delete the folder and run "
            "the same command again"
        )
    return Embedded(
        UnitRows(arrays, np.array(places, np.int64)),
        np.array(records, np.int64),
        np.array(parts, np.int32),
        ids,
        unreadable,
        digest.hexdigest(),
    )
