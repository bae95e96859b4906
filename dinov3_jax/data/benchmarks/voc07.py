"""PASCAL VOC 2007, classification: images with several labels each, from the lists of classes."""

import os
from typing import NamedTuple

import numpy as np

from dinov3_jax.data.benchmarks.classification import Split
from dinov3_jax.data.folder import FolderSource
from dinov3_jax.data.record import SourceError, fingerprint

LAYOUT = """wanted JPEGImages/ID.jpg and ImageSets/Main/CLASS_train.txt, CLASS_val.txt and
CLASS_test.txt of each class, as VOCdevkit/VOC2007 is laid out: trainval and test archives, with
annotations, unpacked into one folder (from the project page of the PASCAL VOC challenge 2007)"""


class Voc07(NamedTuple):
    """Labels of the splits are int32 [n, K]: 1 present, 0 absent, -1 "difficult", not counted."""

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]  # sorted


def open_voc07(path: str) -> Voc07:
    """The splits below ``path``, the folder VOC2007 itself.

    Lines of a list are an id and 1, -1 (absent) or 0 (difficult). Raises ``SourceError`` for lists
    that are missing or of other images than those of the other classes.
    """
    root = os.path.abspath(os.path.expanduser(path))
    lists = os.path.join(root, "ImageSets", "Main")
    names = sorted(os.listdir(lists)) if os.path.isdir(lists) else []
    classes = tuple(
        name.removesuffix("_train.txt") for name in names if name.endswith("_train.txt")
    )
    if not classes:
        raise SourceError(f"no lists CLASS_train.txt in {lists}, {LAYOUT}")
    train, val, test = (_open(root, lists, classes, x) for x in ("train", "val", "test"))
    return Voc07(train, val, test, classes)


def _open(root, lists, classes, split):
    ids, columns = None, []
    for name in classes:
        path = os.path.join(lists, f"{name}_{split}.txt")
        if not os.path.exists(path):
            raise SourceError(f"there is no list {path}, {LAYOUT}")
        with open(path) as file:
            rows = [line.split() for line in file if line.strip()]
        wrong = [row for row in rows if len(row) != 2 or row[1] not in ("1", "0", "-1")]
        if wrong or not rows:
            raise SourceError(
                f"{path} has {'the line ' + repr(' '.join(wrong[0])) if wrong else 'no line'}, "
                "wanted an id and 1, 0 or -1"
            )
        found = [row[0] for row in rows]
        if ids is not None and found != ids:
            raise SourceError(
                f"{path} has other images than the list of {classes[0]}; get it again"
            )
        ids = found
        # VOC says 0 for difficult and -1 for absent.
        columns.append([{"1": 1, "0": -1, "-1": 0}[row[1]] for row in rows])
    files = tuple(f"{x}.jpg" for x in ids or ())
    folder = os.path.join(root, "JPEGImages")
    missing = [x for x in files if not os.path.exists(os.path.join(folder, x))]
    if missing:
        raise SourceError(f"{folder} lacks {len(missing)} images of {split}, {missing[0]} first")
    source = FolderSource(folder, files, None, classes, fingerprint(files))
    return Split(source, np.array(columns, np.int32).T)
