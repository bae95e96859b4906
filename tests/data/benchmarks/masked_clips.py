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
