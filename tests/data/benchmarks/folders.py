"""Tiny data sets in the layouts of classification benchmarks."""

import pathlib

import numpy as np
from PIL import Image


def pixels(label: int, seed: int, side: int = 8) -> np.ndarray:
    """uint8 [side, side, 3]: noise around a grey that says the class."""
    noise = np.random.default_rng(seed).integers(0, 20, (side, side, 3))
    return (40 * label + noise).astype(np.uint8)


def write_split(folder: pathlib.Path, classes, each: int = 2, *, seed: int = 0, side: int = 8):
    """``folder/CLASS/0.png`` .., classes in this order having the labels 0, 1 .."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            image = pixels(label, seed + 100 * label + i, side)
            Image.fromarray(image).save(folder / name / f"{i}.png")
    return folder


def write_class_folders(
    root: pathlib.Path, classes=("ant", "bee", "cat"), *, train=4, val=0, test=2, side=8
) -> str:
    write_split(root / "train", classes, train, seed=0, side=side)
    if val:
        write_split(root / "val", classes, val, seed=20, side=side)
    if test:
        write_split(root / "test", classes, test, seed=40, side=side)
    return str(root)


def write_imagenet(root: pathlib.Path, *, train=3, val=2) -> str:
    return write_class_folders(root, ("n01440764", "n01443537"), train=train, val=val, test=0)
