"""The Met dataset: one class an exhibit, queries of visitors and distractors."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from dinov3_jax.data.benchmarks.images import Images, open_root
from dinov3_jax.data.record import SourceError

LAYOUT = """wanted
  images/, and in the folder itself or in ground_truth/
  MET_database.json   a list of {"path": below images/, "id": number of the exhibit}
  valset.json, testset.json   lists of {"path", "MET_id": exhibit; without it a distractor}
All are on the project page of the Met dataset."""


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    images: Images
    labels: np.ndarray  # int64 [n], exhibit; -1 is a distractor


@dataclasses.dataclass(frozen=True, eq=False)
class Met:
    database: Labelled
    val: Labelled
    test: Labelled


def open_met(path: str, *, database: str) -> Met:
    """The benchmark in folder ``path``; ``database`` is the file name of its list of exhibits."""
    root = open_root(path, ("images",), LAYOUT)
    lists = root / "ground_truth" if (root / "ground_truth").is_dir() else root
    open_root(str(lists), (database, "valset.json", "testset.json"), LAYOUT)
    opened = _read(lists / database, root, "id", required=True)
    val, test = (_read(lists / name, root, "MET_id") for name in ("valset.json", "testset.json"))
    known = np.unique(opened.labels)
    for name, split in (("valset.json", val), ("testset.json", test)):
        if not np.isin(split.labels, known).any():
            raise SourceError(
                f"none of {len(split.labels)} queries of {lists / name} shows an exhibit of "
                f"{database}, which has {len(known)}; take lists that belong together"
            )
    return Met(opened, val, test)


def _read(file: Path, root: Path, key: str, *, required: bool = False) -> Labelled:
    try:
        entries = json.loads(file.read_text())
        files = tuple(entry["path"] for entry in entries)
        labels = [int(entry[key]) if required or key in entry else -1 for entry in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{file}: {type(error).__name__} {error}; {LAYOUT}") from error
    if not files:
        raise SourceError(f"{file} lists no images; {LAYOUT}")
    if required and min(labels) < 0:
        raise SourceError(f"{file} has the exhibit {min(labels)}; wanted numbers from 0")
    return Labelled(Images(str(root / "images"), files), np.array(labels, np.int64))
