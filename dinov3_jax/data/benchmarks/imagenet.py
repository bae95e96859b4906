"""The other test sets of ImageNet-1k's classes: ReaL, V2, R, A, Sketch, C, ObjectNet.

``classes`` are the class names of train/, wnids in sorted order: their places are the labels.
Obtain the sets from their project pages: "Are we done with ImageNet?" (ReaL), ImageNetV2,
imagenet-r, natural adversarial examples (A), ImageNet-Sketch, robustness (C), ObjectNet.
"""

import dataclasses
import json
import os
import re
from collections.abc import Sequence

import numpy as np

from dinov3_jax.data.benchmarks.classification import Split, decode_record, open_split, relabel
from dinov3_jax.data.folder import FolderSource, open_folders
from dinov3_jax.data.record import Record, SourceError

LEVELS = ("1", "2", "3", "4", "5")  # of a corruption
_FRAME = 2  # pixels of red around each image of ObjectNet


def open_real(path: str, val: Split, classes: Sequence[str]) -> list[list[int]]:
    """Labels of each image of ``val`` by ImageNet-ReaL, none for some.

    ``path`` is real.json: a list of label lists, the i-th of ILSVRC2012_val_0000000(i + 1).JPEG.
    """
    labels = _read_json(path)
    if not isinstance(labels, list) or not all(isinstance(x, list) for x in labels):
        raise SourceError(f"{path} is no list of lists of labels; get real.json again")
    if not isinstance(val.source, FolderSource):
        raise SourceError(f"{path} goes by file names: give val/ as class folders of files")
    found = []
    for name in val.source.files:
        number = re.search(r"_(\d+)\.[^.]+$", name)
        if number is None or not 1 <= int(number[1]) <= len(labels):
            raise SourceError(
                f"{name} of val/ has no labels in {path}, which has {len(labels)} lists; wanted "
                "names as ILSVRC2012_val_00000001.JPEG"
            )
        found.append(labels[int(number[1]) - 1])
    highest = max((max(x) for x in found if x), default=0)
    if highest >= len(classes):
        raise SourceError(
            f"{path} has the label {highest}, train/ {len(classes)} classes; it labels "
            "all 1,000 of ImageNet-1k"
        )
    return found


def open_v2(folder: str, classes: Sequence[str]) -> Split:
    """Folders named by label: 0 .. 999 (by number: "10" comes after "9")."""
    source, names = open_split(folder)
    strange = [x for x in names if not x.isdecimal() or int(x) >= len(classes)]
    if strange:
        raise SourceError(
            f"{folder} has the folder {strange[0]}, wanted numbers from 0 to {len(classes) - 1}, "
            "the classes of train/"
        )
    table = np.array([int(x) for x in names], np.int32)
    return Split(source, table[np.asarray(source.labels)])


def open_wnids(folder: str, classes: Sequence[str]) -> Split:
    """Folders named by wnid, some of ``classes`` or all: R, A, Sketch, one level of C."""
    return relabel(*open_split(folder), tuple(classes), folder)


def check_corruptions(folder: str, corruptions: Sequence[str]) -> None:
    """``SourceError`` unless FOLDER/CORRUPTION/1 .. 5 are there for all of ``corruptions``."""
    missing = [
        f"{name}/{level}"
        for name in corruptions
        for level in LEVELS
        if not os.path.isdir(os.path.join(folder, name, level))
    ]
    if missing:
        raise SourceError(
            f"{folder} lacks {len(missing)} of {5 * len(corruptions)} folders CORRUPTION/LEVEL, "
            f"{missing[0]} among them; mCE is the mean of all"
        )


def open_objectnet(
    folder: str, mapping: str, classes: Sequence[str]
) -> tuple[Split, list[list[int]]]:
    """(images without their red frame, the labels that are right for each), overlap only.

    ``folder`` has class folders; ``mapping`` is a JSON file: folder name -> list of the wnids that
    it overlaps with. Folders without one are left out. Labels of the split are the first ones.
    """
    table = _read_json(mapping)
    if not isinstance(table, dict) or not all(isinstance(x, list) for x in table.values()):
        raise SourceError(f"{mapping} is no table of folder names -> lists of wnids")
    number = {name: i for i, name in enumerate(classes)}
    strange = sorted({x for wnids in table.values() for x in wnids} - set(number))
    if strange:
        raise SourceError(
            f"{mapping} names {len(strange)} wnid(s) that train/ lacks, {strange[0]} among them"
        )
    source = open_folders(folder, labelled=True)
    names, folders = source.classes or (), np.asarray(source.labels)
    kept = [i for i, label in enumerate(folders) if table.get(names[label])]
    if not kept:
        raise SourceError(
            f"no folder of {folder} is in {mapping}; folders are {', '.join(names[:3])} .., it has "
            f"{', '.join(sorted(table)[:3])} .."
        )
    right = [[number[x] for x in table[names[folders[i]]]] for i in kept]
    labels = np.array([labels[0] for labels in right], np.int32)
    return Split(_Unframed(source, tuple(kept), labels), labels), right


@dataclasses.dataclass(frozen=True, eq=False)
class _Unframed:
    """Some records of a source, their frame cut off."""

    inner: FolderSource
    kept: tuple[int, ...]
    labels: np.ndarray
    classes: None = None

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Record:
        record = self.inner[self.kept[index]]
        pixels = decode_record(record)
        if min(pixels.shape[:2]) <= 2 * _FRAME:
            raise SourceError(
                f"image {record.id} has {pixels.shape[0]} x {pixels.shape[1]} pixels, no more than "
                f"its frame of {_FRAME} on each side; get the file again, or remove it"
            )
        return record._replace(image=pixels[_FRAME:-_FRAME, _FRAME:-_FRAME])


def _read_json(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}; get it again") from error
