"""SPair-71k: pairs of photographs of one category with keypoints that mean the same."""

import dataclasses
import json

import numpy as np

from dinov3_jax.data.benchmarks.images import open_root
from dinov3_jax.data.record import SourceError

LAYOUT = """wanted
  PairAnnotation/{trn,val,test}/*.json and JPEGImages/CATEGORY/*.jpg
The data set comes from the project page of SPair-71k (POSTECH)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    category: str
    a: str  # file of the source, below ``SPair.images``
    b: str  # of the target
    points_a: np.ndarray  # float64 [k, 2], x and y of keypoints in pixels
    points_b: np.ndarray  # float64 [k, 2], where the same keypoints are in the target
    box_b: np.ndarray  # float64 [4], x0, y0, x1, y1 of the object in the target


@dataclasses.dataclass(frozen=True)
class SPair:
    images: str  # folder
    pairs: tuple[Pair, ...]  # by file name of their annotation


def open_spair(path: str, *, split: str) -> SPair:
    """The pairs of ``split`` ("trn", "val", "test") in folder ``path``."""
    root = open_root(path, (f"PairAnnotation/{split}/*.json", "JPEGImages"), LAYOUT)
    pairs = []
    for file in sorted((root / "PairAnnotation" / split).glob("*.json")):
        try:
            entry = json.loads(file.read_text())
            pair = Pair(
                category=entry["category"],
                a=f"{entry['category']}/{entry['src_imname']}",
                b=f"{entry['category']}/{entry['trg_imname']}",
                points_a=np.array(entry["src_kps"], np.float64).reshape(-1, 2),
                points_b=np.array(entry["trg_kps"], np.float64).reshape(-1, 2),
                box_b=np.array(entry["trg_bndbox"], np.float64).reshape(4),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"{file}: {type(error).__name__} {error}; get it again") from error
        if pair.points_a.shape != pair.points_b.shape or not len(pair.points_a):
            raise SourceError(
                f"{file} has {len(pair.points_a)} keypoints in the source, {len(pair.points_b)} in "
                "the target; wanted equally many, at least 1"
            )
        if not (pair.box_b[2:] > pair.box_b[:2]).all():
            raise SourceError(
                f"{file} has the box {pair.box_b.tolist()}, wanted x0 < x1 and y0 < y1"
            )
        pairs.append(pair)
    return SPair(str(root / "JPEGImages"), tuple(pairs))
