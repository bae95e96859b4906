"""Tiny clips: frame i of n is grey of level 8 i, apart from the label in the blue channel."""

import pathlib

import cv2
import numpy as np
from PIL import Image


def frames(count: int, label: int = 0, side: int = 16) -> np.ndarray:
    """uint8 [count, side, side, 3]."""
    levels = 8 * np.arange(count)
    made = np.broadcast_to(levels[:, None, None, None], (count, side, side, 3)).copy()
    made[..., 2] = 60 * label
    return made.astype(np.uint8)


def write_folder(path: pathlib.Path, pictures) -> None:
    path.mkdir(parents=True)
    for i, picture in enumerate(pictures, 1):
        Image.fromarray(picture).save(path / f"{i:04d}.png")


def write_gif(path: pathlib.Path, pictures) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = (Image.fromarray(picture) for picture in pictures)
    first.save(path, save_all=True, append_images=rest)


def write_video(path: pathlib.Path, pictures) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (width, height))
    for picture in pictures:
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    writer.release()


def write_clips(
    root: pathlib.Path, classes=("run", "sit"), *, train=4, test=2, count=5, side=16
) -> str:
    """Class folders of frame folders."""
    for split, each in (("train", train), ("test", test)):
        for label, name in enumerate(classes):
            for i in range(each):
                write_folder(root / split / name / f"clip{i}", frames(count, label, side))
    return str(root)
