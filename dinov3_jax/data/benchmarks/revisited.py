"""Revisited Oxford and Revisited Paris: ``gnd_*.pkl`` and ``jpg/``."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np

from dinov3_jax.data.benchmarks.images import Images, open_root
from dinov3_jax.data.record import SourceError

LAYOUT = """wanted
  gnd_roxford5k.pkl or gnd_rparis6k.pkl (one of them) and jpg/NAME.jpg
Lists and images come from the project page of Revisiting Oxford and Paris (revisitop)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Revisited:
    queries: Images
    boxes: np.ndarray  # float [q, 4], x0, y0, x1, y1 of the object in each query, pixels
    database: Images
    easy: tuple[np.ndarray, ...]  # [q] of int, rows of the database
    hard: tuple[np.ndarray, ...]
    junk: tuple[np.ndarray, ...]


def open_revisited(path: str) -> Revisited:
    """The benchmark in folder ``path``; ``SourceError`` for anything that does not fit."""
    root = open_root(path, ("gnd_*.pkl", "jpg"), LAYOUT)
    files = sorted(root.glob("gnd_*.pkl"))
    if len(files) > 1:
        raise SourceError(f"{root} has {len(files)} lists, {files[0].name} among them; {LAYOUT}")
    lists = _load(files[0])
    try:
        database, queries, truth = lists["imlist"], lists["qimlist"], lists["gnd"]
        rows = {
            kind: tuple(_rows(query[kind], len(database), files[0]) for query in truth)
            for kind in ("easy", "hard", "junk")
        }
        boxes = np.array([np.ravel(query["bbx"]) for query in truth], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{files[0]} does not hold imlist, qimlist and gnd with easy, hard, junk and bbx of "
            f"each query ({type(error).__name__}: {error}); get it again"
        ) from error
    if not len(queries) or len(queries) != len(truth) or boxes.shape != (len(queries), 4):
        raise SourceError(
            f"{files[0]} has {len(queries)} queries, {len(truth)} entries of truth and boxes "
            f"{list(boxes.shape)}; wanted as many of each, at least 1, and 4 numbers a box"
        )
    images = str(root / "jpg")
    return Revisited(
        queries=Images(images, tuple(f"{name}.jpg" for name in queries)),
        boxes=boxes,
        database=Images(images, tuple(f"{name}.jpg" for name in database)),
        **rows,
    )


def _rows(numbers, count, file) -> np.ndarray:
    rows = np.ravel(np.asarray(numbers)).astype(np.int64)
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise SourceError(
            f"{file} names database rows {rows.min()} to {rows.max()}; there are {count}, 0 to "
            f"{count - 1}"
        )
    return rows


class _Arrays(pickle.Unpickler):
    """Lists, numbers, strings and numpy arrays: a pickle can run any code, this one cannot."""

    def find_class(self, module, name):
        allowed = {
            "numpy": ("ndarray", "dtype"),
            "numpy.core.multiarray": ("_reconstruct", "scalar"),
            "numpy._core.multiarray": ("_reconstruct", "scalar"),
            "_codecs": ("encode",),  # bytes in protocols that have none
            "__builtin__": ("bytes",),
        }
        if name in allowed.get(module, ()):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no list or array")


def _load(file: Path):
    try:
        with file.open("rb") as data:
            return _Arrays(data, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError) as error:
        raise SourceError(f"{file} cannot be read: {error}; get it again") from error
