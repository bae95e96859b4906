"""Labelled images in splits: class folders, the layout of ImageNet-1k, Fashion-MNIST."""

import dataclasses
import os
from typing import NamedTuple

import numpy as np

from dinov3_jax.data.decode import decode
from dinov3_jax.data.fashion_mnist import open_fashion_mnist
from dinov3_jax.data.folder import FolderSource, open_folders
from dinov3_jax.data.record import Record, Source, SourceError
from dinov3_jax.data.shards import open_shards

LAYOUT = """wanted
  train/CLASS/*.jpg, test/CLASS/*.jpg and, where there is one, val/CLASS/*.jpg; or
  train/WNID/*.JPEG and val/WNID/*.JPEG, as ImageNet-1k is laid out (from its project page, with an
  account; val/ sorted into class folders), val/ then being the test; or
  fashion_mnist, or fashion_mnist:DIR with its four idx files"""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images by number, decoded when asked for."""

    source: Source
    labels: np.ndarray  # int32 [n], indices of ``Classification.classes``

    def __len__(self) -> int:
        return len(self.source)

    def image(self, index: int) -> np.ndarray:
        """uint8 [h, w, 3]; ``SourceError`` that names an image that cannot be read."""
        return decode_record(self.source[index])


def decode_record(record: Record) -> np.ndarray:
    """uint8 [h, w, 3]; ``SourceError`` that names an image that cannot be read."""
    try:
        return decode(record.image)
    except ValueError as error:
        raise SourceError(
            f"image {record.id} cannot be read ({error}); a score without it would be another "
            "one: get the file again, or remove it"
        ) from error


class Classification(NamedTuple):
    train: Split
    val: Split | None
    test: Split
    classes: tuple[str, ...]  # of the training split; a test may lack some, and adds none


def open_classification(path: str) -> Classification:
    """The splits below the folder ``path``, or "fashion_mnist" (":DIR": its files are there).

    A split is a folder of class folders, or of shards with labels. Without ``test/``, ``val/`` is
    the test. Classes are numbered in the order of the sorted names of the training split's, labels
    of all splits by it. Raises ``SourceError`` for a split that is missing, empty or unlabelled,
    and for a class that ``train/`` does not have.
    """
    kind, _, folder = path.partition(":")
    if kind == "fashion_mnist" and not os.path.isdir(path):
        opened = {
            split: _labelled(open_fashion_mnist(f"{folder}:{split}" if folder else split), split)
            for split in ("train", "test")
        }
    else:
        opened = _open_folders(os.path.abspath(os.path.expanduser(path)))
    classes = opened["train"][1]
    splits = {name: relabel(*found, classes, name) for name, found in opened.items()}
    test = splits.pop("test", None) or splits.pop("val")
    return Classification(splits["train"], splits.get("val"), test, classes)


def _open_folders(root: str) -> dict[str, tuple[Source, tuple[str, ...]]]:
    there = [name for name in ("train", "val", "test") if os.path.isdir(os.path.join(root, name))]
    if "train" not in there or len(there) == 1:
        raise SourceError(f"{root} has {', '.join(there) or 'no'} splits, {LAYOUT}")
    return {name: open_split(os.path.join(root, name)) for name in there}


def open_split(folder: str) -> tuple[Source, tuple[str, ...]]:
    """(source with labels, its class names) of one folder of class folders or of shards."""
    if os.path.exists(os.path.join(folder, "manifest.json")):
        source = open_shards(folder)
    else:
        source = open_folders(folder, labelled=True)
        _check_class_folders(folder, source)
    return _labelled(source, folder)


def _labelled(source: Source, place: str) -> tuple[Source, tuple[str, ...]]:
    if source.labels is None or source.classes is None:
        raise SourceError(f"{place} has no labels, or no class names; pack it from class folders")
    return source, source.classes


def relabel(source: Source, names: tuple[str, ...], classes: tuple[str, ...], split: str) -> Split:
    """``source``, whose labels number ``names``, with labels that number ``classes``."""
    number = {name: i for i, name in enumerate(classes)}
    strange = [name for name in names if name not in number]
    if strange:
        raise SourceError(
            f"{split}/ has {len(strange)} class(es) that train/ lacks, {', '.join(strange[:3])} "
            f"among them; train/ has {len(classes)}: name the folders alike in both"
        )
    table = np.array([number[name] for name in names], np.int32)
    labels = np.asarray(source.labels)
    if labels.min() < 0 or labels.max() >= len(names):
        raise SourceError(
            f"labels of {split}/ span {labels.min()} to {labels.max()}, wanted 0 to "
            f"{len(names) - 1}, one for each class; pack it again"
        )
    return Split(source, table[labels])


def _check_class_folders(folder: str, source: FolderSource) -> None:
    loose = [name for name in source.files if os.path.dirname(name) == ""]
    if loose:
        raise SourceError(
            f"{len(loose)} image(s) lie directly in {folder}, {loose[0]} among them, so that their "
            f"class is unknown; {LAYOUT}. A test/ without labels, as that of ImageNet-1k, must go"
        )
