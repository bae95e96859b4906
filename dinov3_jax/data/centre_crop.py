"""The transform of classification benchmarks: short side to a size, then the centre."""

import numpy as np

from dinov3_jax.data import bicubic


def centre_crop(image: np.ndarray, *, resize: int, crop: int) -> np.ndarray:
    """uint8 [h, w, 3] -> uint8 [crop, crop, 3]: the centre after the short side became ``resize``.

    Bicubic and antialiased, by Pillow; the long side is rounded down. Sizes in pixels. Raises
    ``ValueError`` unless 1 <= crop <= resize.
    """
    if not 1 <= crop <= resize:
        raise ValueError(f"crop is {crop}, resize {resize}; wanted 1 <= crop <= resize")
    height, width = image.shape[:2]
    short = min(height, width)
    height, width = resize * height // short, resize * width // short
    image = bicubic.resize(image, height, width)
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    return np.ascontiguousarray(image[top : top + crop, left : left + crop])
