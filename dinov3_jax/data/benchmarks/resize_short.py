"""Images, and the maps that belong to them, to a common short side."""

import numpy as np
from PIL import Image


def resize_short(image: np.ndarray, short: int, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with a short side of ``short`` pixels, the other in proportion, cut to whole pixels.

    image: uint8 [h, w, 3], bilinear; it averages over the pixels that one stands for where it
    shrinks. truth: labels uint8 [h, w] or depths float32 [h, w], of which the nearest is kept.
    """
    height, width = size_short(image.shape[:2], short)
    kept = Image.fromarray(truth).resize((width, height), Image.Resampling.NEAREST)
    return resize_image(image, short), np.asarray(kept)


def resize_image(image: np.ndarray, short: int) -> np.ndarray:
    """The image alone, as in ``resize_short``."""
    height, width = size_short(image.shape[:2], short)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def size_short(size: tuple[int, ...], short: int) -> tuple[int, int]:
    """(height, width) of ``size`` scaled to a short side of ``short`` pixels."""
    height, width = (int(side * short / min(size) + 1e-6) for side in size)
    return height, width
