"""A tiny ImageNet-1k of four classes, with the other test sets of its classes beside it."""

import json
import pathlib

import numpy as np
from PIL import Image

from dinov3_jax.evals.classification.metrics import ALEXNET
from tests.data.benchmarks.folders import pixels, write_split

WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361")
VAL = 2  # images of a class


def write_imagenet(root: pathlib.Path, *, side: int = 8) -> str:
    """train/, val/ (as the published names and numbers go), real.json, V2, R, A, Sketch, C,
    ObjectNet and its table. R and A have the classes 1 and 3."""
    write_split(root / "train", WNIDS, 4, side=side)
    for label, name in enumerate(WNIDS):
        (root / "val" / name).mkdir(parents=True)
        for i in range(VAL):
            number = 1 + label + 4 * i  # classes in turns, as in the published order
            path = root / "val" / name / f"ILSVRC2012_val_{number:08d}.JPEG"
            Image.fromarray(pixels(label, 500 + number, side)).save(path, format="PNG")
    # Image 1 has no label, image 2 another one besides its own, the rest their own.
    labels = [[], [1, 0], [2], [3], [0], [1], [2], [3]]
    (root / "real.json").write_text(json.dumps(labels))
    v2 = root / "imagenetv2-matched-frequency-format-val"
    for label in range(4):
        write_one(v2 / str(label) / "a.png", pixels(label, 600 + label, side))
    for name in ("imagenet-r", "imagenet-a"):
        for label in (1, 3):
            write_one(root / name / WNIDS[label] / "a.png", pixels(label, 700 + label, side))
    write_split(root / "sketch", WNIDS, 1, seed=800, side=side)
    for corruption in ALEXNET:
        for level in range(1, 6):
            folder = root / "imagenet-c" / corruption / str(level)
            for label in (0, 2):
                write_one(folder / WNIDS[label] / "a.png", pixels(label, 900 + label, side))
    for name, label in (("Air freshener", 3), ("Alarm clock", 0), ("Book", 2)):
        framed = np.full((side + 4, side + 4, 3), (255, 0, 0), np.uint8)
        framed[2:-2, 2:-2] = pixels(label, 950 + label, side)
        write_one(root / "objectnet" / name / "a.png", framed)
    table = {"Alarm clock": [WNIDS[0]], "Book": [WNIDS[2], WNIDS[1]]}  # no air freshener
    (root / "objectnet.json").write_text(json.dumps(table))
    return str(root)


def write_one(path: pathlib.Path, image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
