"""Bilinear interpolation as a matrix, one for each axis of a map."""

import functools

import numpy as np


@functools.lru_cache(maxsize=256)
def bilinear(old: int, new: int) -> np.ndarray:
    """float32 [new, old], read-only: ``bilinear(h, H) @ map @ bilinear(w, W).T`` resizes [h, w].

    Pixel centres are aligned (not corners), the border is repeated, and a map that shrinks is not
    averaged: ``align_corners=False`` without antialiasing in PyTorch. Rows sum to 1.
    """
    position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    below = np.minimum(np.floor(position).astype(int), max(old - 2, 0))
    above = np.minimum(below + 1, old - 1)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new), below), 1 - (position - below))
    np.add.at(matrix, (np.arange(new), above), position - below)
    matrix = matrix.astype(np.float32)
    matrix.setflags(write=False)
    return matrix
