"""Images with boxes around their objects: one's own, PASCAL VOC 2007 and 2012, COCO 20k."""

import csv
import dataclasses
import json
import math
import os
import xml.etree.ElementTree as ElementTree

import numpy as np

from dinov3_jax.data.record import SourceError
from dinov3_jax.data.video import list_frames, read_frame

COLUMNS = ("image", "x0", "y0", "x1", "y1")
LAYOUT = f"""wanted
  boxes.csv with the header {",".join(COLUMNS)} (pixels from the top left, one box a line) and
  images/ with the files it names (others there have no box); or
  JPEGImages/, Annotations/*.xml and ImageSets/Main/SPLIT.txt, as VOC2007 and VOC2012 are laid out
  (from the project page of PASCAL VOC); or
  coco_20k_filenames.txt (published with LOST and TokenCut), train2014/, val2014/ where the list
  names its images, and annotations/instances_train2014.json, as COCO 2014 is laid out
  (cocodataset.org)"""


@dataclasses.dataclass(frozen=True, eq=False)
class BoxedImages:
    """Images by number, read when asked for."""

    files: tuple[str, ...]
    boxes: tuple[np.ndarray, ...]  # float64 [m, 4] of each: x0, y0, x1, y1 in pixels, m >= 0

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3]; ``SourceError`` where it cannot be read."""
        return read_frame(self.files[index])


def open_boxes(path: str, split: str) -> BoxedImages:
    """The images below ``path`` and their boxes; ``split`` names a list of VOC (trainval).

    A box covers x0 <= x < x1 and y0 <= y < y1. Difficult objects of VOC count, crowds of COCO do
    not. Raises ``SourceError`` for another layout, and a box that is empty or not a number.
    """
    root = os.path.abspath(os.path.expanduser(path))
    if os.path.isfile(os.path.join(root, "boxes.csv")):
        files, boxes = _own(root)
    elif os.path.isdir(os.path.join(root, "ImageSets", "Main")):
        files, boxes = _voc(root, split)
    elif os.path.isfile(os.path.join(root, "coco_20k_filenames.txt")):
        files, boxes = _coco_20k(root)
    else:
        raise SourceError(f"no boxes in {root}, {LAYOUT}")
    if not files:
        raise SourceError(f"{root} lists no image, {LAYOUT}")
    for file, rows in zip(files, boxes):
        if not os.path.isfile(file):
            raise SourceError(f"image {file} is listed and is not there")
        for x0, y0, x1, y1 in rows:
            if not (0 <= x0 < x1 < math.inf and 0 <= y0 < y1 < math.inf):
                raise SourceError(
                    f"image {file} has a box {x0:g},{y0:g},{x1:g},{y1:g}; wanted 0 <= x0 < x1 and "
                    "0 <= y0 < y1, in pixels"
                )
    arrays = tuple(np.array(rows, np.float64).reshape(-1, 4) for rows in boxes)
    return BoxedImages(tuple(files), arrays)


def _own(root):
    name, found = os.path.join(root, "boxes.csv"), {}
    with open(name, newline="") as file:
        lines = csv.DictReader(file)
        if tuple(lines.fieldnames or ()) != COLUMNS:
            raise SourceError(f"{name} has the header {lines.fieldnames}, wanted {list(COLUMNS)}")
        for number, line in enumerate(lines, start=2):
            try:
                box = [float(line[column]) for column in COLUMNS[1:]]
            except (TypeError, ValueError) as error:
                raise SourceError(
                    f"{name}, line {number}: {list(line.values())}: {error}"
                ) from error
            found.setdefault(os.path.join(root, "images", line["image"]), []).append(box)
    folder = os.path.join(root, "images")
    if not os.path.isdir(folder):
        raise SourceError(f"there is no folder {folder}, {LAYOUT}")
    files = sorted(found.keys() | set(list_frames(folder)))
    return files, [found.get(file, []) for file in files]


def _voc(root, split):
    lists = os.path.join(root, "ImageSets", "Main", f"{split}.txt")
    if not os.path.isfile(lists):
        raise SourceError(f"there is no {lists}; give another split, as trainval")
    with open(lists) as file:
        names = [line.split()[0] for line in file if line.strip()]
    files = [os.path.join(root, "JPEGImages", f"{name}.jpg") for name in names]
    return files, [_voc_boxes(os.path.join(root, "Annotations", f"{name}.xml")) for name in names]


def _voc_boxes(file):
    try:
        objects = ElementTree.parse(file).getroot().iter("object")
        boxes = [
            [
                float(entry.findtext(f"bndbox/{side}", ""))
                for side in ("xmin", "ymin", "xmax", "ymax")
            ]
            for entry in objects
        ]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise SourceError(f"annotation {file} cannot be read: {error}") from error
    # Pixels count from 1 there, and the last one is inside.
    return [[x0 - 1, y0 - 1, x1, y1] for x0, y0, x1, y1 in boxes]


def _coco_20k(root):
    with open(os.path.join(root, "coco_20k_filenames.txt")) as file:
        names = [os.path.basename(line.strip()) for line in file if line.strip()]
    # COCO_train2014_000000000009.jpg
    parts = [name.split("_")[1] if name.count("_") == 2 else "" for name in names]
    found = {name: [] for name in names}
    for part in sorted(set(parts)):
        file = os.path.join(root, "annotations", f"instances_{part}.json")
        if not os.path.isfile(file):
            raise SourceError(f"there is no {file}, {LAYOUT}")
        with open(file) as opened:
            content = json.load(opened)
        name_of = {image["id"]: image["file_name"] for image in content["images"]}
        for entry in content["annotations"]:
            name = name_of[entry["image_id"]]
            if name in found and not entry["iscrowd"]:
                x, y, width, height = entry["bbox"]
                found[name].append([x, y, x + width, y + height])
    files = [os.path.join(root, part, name) for part, name in zip(parts, names)]
    return files, [found[name] for name in names]
