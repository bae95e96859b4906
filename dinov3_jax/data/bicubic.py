"""Images brought to a size by Pillow's bicubic filter, antialiased; uint8 [h, w, 3] in and out."""

import numpy as np
from PIL import Image


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Both sides, whatever the aspect."""
    if image.shape[:2] == (height, width):
        return image
    drawn = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(drawn)


def letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """The long side becomes ``size``, the aspect stays; in the middle of a black square."""
    height, width = image.shape[:2]
    long = max(height, width)
    height, width = (max(1, round(size * side / long)) for side in (height, width))
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = resize(image, height, width)
    return square


def on_grid(image: np.ndarray, longest: int | None, *, stride: int) -> np.ndarray:
    """The long side at most ``longest`` (None: as it is), then each side to the nearest multiple
    of ``stride``, at least one."""
    height, width = image.shape[:2]
    factor = 1.0 if longest is None else min(1.0, longest / max(height, width))
    sides = (max(1, round(factor * side / stride)) * stride for side in (height, width))
    return resize(image, *sides)
