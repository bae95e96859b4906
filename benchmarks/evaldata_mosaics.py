"""Mosaics of four labelled photographs, so that the class of every pixel is known exactly.

Each writer takes (photos, out) and returns the path for ``dinov3 eval --data``.
"""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from dinov3_jax.data.decode import decode

SIDE = 224  # pixels of a mosaic
TRAIN, VAL = 200, 40  # mosaics
CLASSES = ("Apple", "Juice", "Melon", "Milk", "Pepper", "Tomato")
_SEAM = 1  # pixels on each side of a border between photographs that have no class


def segmentation(photos: Path, out: Path) -> str:
    """Mosaics and their masks, in the layout for one's own data."""
    for split, source, count in (("train", "train", TRAIN), ("val", "test", VAL)):
        for kind in ("images", "masks"):
            (out / kind / split).mkdir(parents=True, exist_ok=True)
        for i, (image, mask) in enumerate(_mosaics(photos, source, count)):
            Image.fromarray(image).save(out / "images" / split / f"{i:04d}.jpg", quality=95)
            Image.fromarray(mask).save(out / "masks" / split / f"{i:04d}.png")
    (out / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return str(out)


def voc07(photos: Path, out: Path) -> str:
    """Mosaics in the layout of VOC 2007: what is in one are its labels, none is difficult."""
    (out / "JPEGImages").mkdir(parents=True, exist_ok=True)
    (out / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", TRAIN), ("val", VAL), ("test", TRAIN)):
        lines = {name: [] for name in CLASSES}
        for i, (image, mask) in enumerate(_mosaics(photos, split, count)):
            Image.fromarray(image).save(out / f"JPEGImages/{split}{i:04d}.jpg", quality=95)
            for label, name in enumerate(CLASSES):
                lines[name].append(f"{split}{i:04d} {1 if (mask == label).any() else -1}")
        for name, rows in lines.items():
            (out / f"ImageSets/Main/{name}_{split}.txt").write_text("\n".join(rows) + "\n")
    return str(out)


def _mosaics(photos, split, count):
    """(image, mask) of photographs of groceries, classes as in the column coarse_class."""
    source, rng = photos / "grocery", np.random.default_rng(0)
    with open(source / "classes.csv", encoding="utf-8", newline="") as file:
        coarse = {row["class"]: row["coarse_class"] for row in csv.DictReader(file)}
    files = [
        sorted(f for f in (source / split).glob("*/*.jpg") if coarse[f.parent.name] == name)
        for name in CLASSES
    ]
    for _ in range(count):
        yield _mosaic(files, rng)


def _mosaic(files, rng):
    """Four photographs, the centre of each, around a point that is drawn."""
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    mask = np.empty((SIDE, SIDE), np.uint8)
    y, x = rng.integers(SIDE * 3 // 8, SIDE * 5 // 8, 2)
    for rows in (slice(0, y), slice(y, SIDE)):
        for columns in (slice(0, x), slice(x, SIDE)):
            label = int(rng.integers(len(files)))
            photo = decode(files[label][rng.integers(len(files[label]))].read_bytes())
            image[rows, columns] = _cover(
                photo, rows.stop - rows.start, columns.stop - columns.start
            )
            mask[rows, columns] = label
    mask[y - _SEAM : y + _SEAM] = mask[:, x - _SEAM : x + _SEAM] = 255
    return image, mask


def _cover(photo, height, width):
    factor = max(height / photo.shape[0], width / photo.shape[1])
    h, w = (max(a, round(factor * b)) for a, b in zip((height, width), photo.shape))
    drawn = np.asarray(Image.fromarray(photo).resize((w, h), Image.Resampling.BILINEAR))
    top, left = (h - height) // 2, (w - width) // 2
    return drawn[top : top + height, left : left + width]
