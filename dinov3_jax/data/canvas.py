"""A picture of any size on a square of fixed size, for augmentation on the device."""

import cv2
import numpy as np


def place(image: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """Writes ``image`` uint8 [h, w, 3] into the top left of ``canvas`` uint8 [C, C, 3], in place.

    An image with a side above C is first shrunk, by pixel area, until its longer side is C. Returns
    float32 [4], the factors that turn a box (y, x, height, width) of the image into one of the
    canvas; all 1 if nothing was shrunk.
    """
    height, width = image.shape[:2]
    side = canvas.shape[0]
    longer = max(height, width)
    if longer > side:
        h, w = (max(1, round(length * side / longer)) for length in (height, width))
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    h, w = image.shape[:2]
    canvas[:h, :w] = image
    return np.array([h / height, w / width] * 2, np.float32)
