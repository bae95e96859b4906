"""A tiny VOC 2007 of three classes."""

import pathlib

import numpy as np
from PIL import Image

CLASSES = ("boat", "cat", "dog")


def write_voc07(root: pathlib.Path, *, each: int = 12, side: int = 8) -> str:
    """``each`` images a split; class c is in an image if its channel c is bright. Of the first
    image of a split, the last class is "difficult"."""
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, split in enumerate(("train", "val", "test")):
        present = np.arange(each)[:, None] >> np.arange(3) & 1  # every combination, in turns
        ids = [f"{each * number + i:06d}" for i in range(each)]
        for name, row in zip(ids, present):
            image = 160 * row + rng.integers(0, 40, (side, side, 3))
            path = root / "JPEGImages" / f"{name}.jpg"
            Image.fromarray(image.astype(np.uint8)).save(path, quality=95)
        for c, label in enumerate(CLASSES):
            says = np.where(present[:, c], "1", "-1").tolist()
            if c == 2:
                says[0] = "0"
            lines = [f"{name} {value:>2}\n" for name, value in zip(ids, says)]
            (root / "ImageSets" / "Main" / f"{label}_{split}.txt").write_text("".join(lines))
    return str(root)
