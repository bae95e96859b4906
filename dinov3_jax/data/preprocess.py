"""One image to what a backbone takes: the transform of the published models."""

import os
import pathlib

import numpy as np
from PIL import Image

from dinov3_jax.data.decode import decode
from dinov3_jax.data.fit import fit

Picture = str | os.PathLike | bytes | Image.Image | np.ndarray


def preprocess(
    image: Picture,
    size: int | tuple[int, int] | None,
    *,
    stride: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> np.ndarray:
    """resize(uint8, bilinear, antialiased) / 255, minus ``mean``, over ``std``: float32 [H, W, 3].

    ``image``: a path, an encoded file (bytes), Pillow's image or uint8 [H, W(, 1|3|4)]; see
    ``data.decode`` for grey, CMYK, alpha and rotation. ``size``: of a square, or (height, width),
    multiples of ``stride`` in pixels; None keeps the image's own, less what is over at the right
    and below. Raises ``ValueError`` for another size or an unreadable image.
    """
    wanted = (size, size) if isinstance(size, int) else size
    if wanted is not None:
        for side in wanted:
            if side < stride or side % stride:
                below = max(side // stride, 1) * stride
                raise ValueError(
                    f"size {size} is no multiple of the stride {stride}; the nearest to {side} are "
                    f"{below} and {below + stride}"
                )
    if isinstance(image, (str, os.PathLike)):
        image = pathlib.Path(image).read_bytes()
    how = "crop" if wanted is None else "resize"
    pixels = fit(decode(image), wanted, how=how, stride=stride, fill=(0, 0, 0)).pixels
    scaled = pixels.astype(np.float32) / 255.0
    return (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
