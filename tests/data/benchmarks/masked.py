"""Images of one coloured rectangle over noise, and its mask, in each layout that is read."""

import numpy as np
from PIL import Image

from dinov3_jax.evals.tracking.overlay import palette_image
from tests.data.benchmarks.boxed import BOXES, rectangles

LAYOUTS = ("own", "voc")


def masks():
    """bool [3, 32, 48]."""
    made = np.zeros((3, 32, 48), bool)
    for mask, (x0, y0, x1, y1) in zip(made, BOXES):
        mask[y0:y1, x0:x1] = True
    return made


def write_masked(root, layout):
    """The three images below ``root``, named 0, 1, 2. In VOC the last column is not known."""
    folders = {"own": ("images", "masks"), "voc": ("JPEGImages", "SegmentationClass")}[layout]
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for i, (pixels, mask) in enumerate(zip(rectangles(), masks())):
        if layout == "own":
            Image.fromarray(pixels).save(root / folders[0] / f"{i}.png")
            Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(root / f"masks/{i}.png")
        else:
            Image.fromarray(pixels).save(root / folders[0] / f"{i}.jpg", quality=95)
            numbers = np.where(mask, 15, 0)
            numbers[:, -1] = 255
            palette_image(numbers).save(root / folders[1] / f"{i}.png")
    if layout == "voc":
        (root / "ImageSets/Segmentation").mkdir(parents=True)
        (root / "ImageSets/Segmentation/val.txt").write_text("0\n1\n2\n")
    return root
