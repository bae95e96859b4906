"""An image of any size, made to fit the patch grid of a model."""

from typing import NamedTuple

import numpy as np
from PIL import Image

FITS = ("resize", "crop", "pad")


class Fitted(NamedTuple):
    pixels: np.ndarray  # uint8 [H, W, 3], H and W multiples of the stride
    height: int  # rows of ``pixels`` that show the image; below H only where it is padded
    width: int


def fit(
    image: np.ndarray,
    size: tuple[int, int] | None,
    *,
    how: str,
    stride: int,
    fill: tuple[int, int, int],
) -> Fitted:
    """uint8 [h, w, 3] to ``size`` (H, W), or with None to a size near its own.

    how       with a size                            without one
    "resize"  both sides, whatever the aspect        each side to the nearest multiple of ``stride``
    "crop"    scaled to cover it, the centre taken   the last rows and columns beyond one dropped
    "pad"     scaled to lie within it, top left      rows and columns added up to one
    Added pixels have the colour ``fill``, at the bottom and the right. Scaling is bilinear, and
    averages over the pixels that one stands for where the image shrinks.

    Raises ``ValueError`` for an image with a side below ``stride`` that is to keep its own size.
    """
    height, width = image.shape[:2]
    if size is None and how != "pad" and min(height, width) < stride:
        raise ValueError(
            f"image of {height} x {width} pixels is smaller than a patch of {stride} x {stride}; "
            "give a size, or pad it"
        )
    H, W = size or tuple(_multiple(side, stride, how) for side in (height, width))
    if how == "resize":
        return Fitted(_scale(image, H, W), H, W)
    if size is not None:
        # Of two sides one is met exactly, the other is longer (crop) or shorter (pad).
        limit = max if how == "crop" else min
        factor = limit(H / height, W / width)
        h, w = (max(1, round(factor * side)) for side in (height, width))
        image = _scale(image, limit(H, h), limit(W, w))
        if how == "crop":
            top, left = (image.shape[0] - H) // 2, (image.shape[1] - W) // 2
            image = image[top:, left:]
    image = image[:H, :W]
    height, width = image.shape[:2]
    if (height, width) == (H, W):
        return Fitted(np.ascontiguousarray(image), H, W)
    padded = np.empty((H, W, 3), np.uint8)
    padded[:] = fill
    padded[:height, :width] = image
    return Fitted(padded, height, width)


def _multiple(side, stride, how):
    whole = {"resize": round(side / stride), "crop": side // stride, "pad": -(-side // stride)}
    return max(1, whole[how]) * stride


def _scale(image, height, width):
    if image.shape[:2] == (height, width):
        return image
    drawn = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(drawn)
