"""Masks of objects as pictures: over their frame, and as PNGs with the usual palette."""

import numpy as np
from PIL import Image


def palette() -> np.ndarray:
    """uint8 [256, 3], the colours of PASCAL VOC and DAVIS: 0 black, 1 dark red, 2 green ...

    Three bits of the number at a time, lowest first, give the bits of red, green and blue, highest
    first.
    """
    numbers = np.arange(256)
    bits = [[(numbers >> (3 * i + c) & 1) << (7 - i) for c in range(3)] for i in range(3)]
    return np.sum(bits, axis=0).T.astype(np.uint8)


def paint(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] with each object of ``mask`` (int [H, W], 0..255) half in its colour."""
    colours = palette()[mask].astype(np.uint16)
    return np.where((mask > 0)[..., None], (frame + colours) // 2, frame).astype(np.uint8)


def palette_image(mask: np.ndarray) -> Image.Image:
    """Pillow's image of numbers int [H, W], 0..255, that shows them in their colours."""
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(palette().tobytes())
    return image
