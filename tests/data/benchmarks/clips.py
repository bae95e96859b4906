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


"""Clips of coloured squares that move over noise, in each layout that is read."""

import numpy as np
from PIL import Image

from dinov3_jax.evals.tracking.overlay import palette_image

COLOURS = np.array([[0, 0, 0], [230, 40, 30], [30, 60, 230]], np.uint8)  # by number
LAYOUTS = ("own", "davis", "youtube")


def moving_squares(frames=4, *, height=32, width=48, side=16, step=8, seed=0):
    """(frames uint8 [n, H, W, 3], masks uint8 [n, H, W]): object 1 goes right, 2 left."""
    noise = np.random.default_rng(seed).integers(90, 160, (height, width, 3), np.uint8)
    pixels, masks = np.stack([noise] * frames), np.zeros((frames, height, width), np.uint8)
    for i in range(frames):
        for number, (top, left) in enumerate(((0, step * i), (16, width - side - step * i)), 1):
            masks[i, top : top + side, left : left + side] = number
        pixels[i] = np.where(masks[i, ..., None] > 0, COLOURS[masks[i]], pixels[i])
    return pixels, masks


def write_clip(images, masks, pixels, numbers, *, every=1):
    """Frames 00000.png .. in the folder ``images``; masks of every so many of them in ``masks``."""
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for i, (frame, mask) in enumerate(zip(pixels, numbers)):
        Image.fromarray(frame).save(images / f"{i:05d}.png")
        if i % every == 0:
            palette_image(mask).save(masks / f"{i:05d}.png")


def write_clips(root, layout, names=("a", "b"), *, every=1, **squares):
    """Clips of moving squares, each with its own noise, in one of ``LAYOUTS``."""
    for seed, name in enumerate(names):
        folders = {
            "own": (root / name / "frames", root / name / "masks"),
            "davis": (root / "JPEGImages/480p" / name, root / "Annotations/480p" / name),
            "youtube": (root / "train/JPEGImages" / name, root / "train/Annotations" / name),
        }[layout]
        write_clip(*folders, *moving_squares(seed=seed, **squares), every=every)
    if layout == "davis":
        (root / "ImageSets/2017").mkdir(parents=True)
        (root / "ImageSets/2017/val.txt").write_text("\n".join(names) + "\n")
    return root
