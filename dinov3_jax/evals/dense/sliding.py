"""Sliding-window inference: maps of overlapping windows, averaged into one of the whole image.

Interpolating each window's grid to pixels, averaging where windows overlap and resizing the result
to the size of the labels are all linear, and the windows lie on a grid: one matrix for each axis
does all three.
"""

import numpy as np

from dinov3_jax.evals.dense.bilinear import bilinear


def starts(length: int, window: int, stride: int) -> list[int]:
    """First pixel of each window along an axis of ``length`` pixels, in order.

    max(length - window + stride - 1, 0) // stride + 1 windows, ``stride`` apart; the last one is
    moved back so that it ends with the image. Raises ``ValueError`` unless
    1 <= ``stride`` <= ``window`` <= ``length``: every pixel lies in at least one window.
    """
    if not 1 <= stride <= window <= length:
        raise ValueError(
            f"windows of {window} pixels every {stride} on {length}: wanted "
            "1 <= stride <= window <= length"
        )
    count = max(length - window + stride - 1, 0) // stride + 1
    return [min(i * stride, length - window) for i in range(count)]


def windows(image: np.ndarray, window: int, stride: int) -> np.ndarray:
    """[H, W, c] -> [I, J, window, window, c]: I windows down, J across, where ``starts`` says."""
    down, across = (starts(side, window, stride) for side in image.shape[:2])
    return np.stack([[image[y : y + window, x : x + window] for x in across] for y in down])


def axis(length: int, out: int, *, window: int, stride: int, cells: int) -> np.ndarray:
    """float32 [out, windows, cells]: what each cell of each window gives to each output pixel.

    Of one axis of an image of ``length`` pixels: a window's ``cells`` are interpolated to its
    ``window`` pixels, windows are averaged over those that cover a pixel, and the ``length``
    pixels are resized to ``out``, all bilinear. With logits [I, J, h, w, C] of an image, the map is
    ``einsum("yia,xjb,ijabc->yxc", rows, columns, logits)``.
    """
    first = starts(length, window, stride)
    spread = np.zeros((length, len(first), cells), np.float32)
    for i, start in enumerate(first):
        spread[start : start + window, i] = bilinear(cells, window)
    spread /= spread.sum(axis=(1, 2), keepdims=True)  # the number of windows over the pixel
    return np.einsum("ol,lic->oic", bilinear(length, out), spread)
