"""Features as pictures: principal components as colours, similarity maps, nearest images."""

import numpy as np
from matplotlib import colormaps


def pca_rgb(patch_tokens):
    """First three principal components of the patches as red, green, blue.

    One PCA over all images given, so that a colour means the same in each of them. Each component
    is stretched from its 1st to its 99th percentile over all patches; values outside are clipped.
    The sign is fixed: the loading of largest magnitude is positive. A component without variance
    (fewer than three directions in the data) is mid-grey, 128.

    Args:
      patch_tokens: [n, h, w, D] float, finite, D >= 3.

    Returns:
      uint8 [n, h, w, 3]. Computed in float64.
    """
    x = np.asarray(patch_tokens, np.float64)
    if x.ndim != 4 or x.shape[-1] < 3 or x.size == 0:
        raise ValueError(f"patch_tokens has shape {x.shape}, wanted [n, h, w, D] with D >= 3")
    if not np.isfinite(x).all():
        raise ValueError("patch_tokens are not finite; the model has diverged")
    scores, variance = principal(x.reshape(-1, x.shape[-1]), 3)  # [n*h*w, 3]
    low, high = np.percentile(scores, [1, 99], axis=0)
    # Directions with 1e-10 of the first one's variance are rounding; stretching shows noise.
    empty = (variance <= 1e-10 * max(variance[0], 1e-30)) | (high <= low)
    unit = np.clip((scores - low) / np.where(empty, 1.0, high - low), 0.0, 1.0)
    unit = np.where(empty, 128 / 255, unit)
    return np.round(255 * unit).astype(np.uint8).reshape(*x.shape[:3], 3)


def principal(rows, count):
    """Coordinates of ``rows`` [n, D] along their first principal components.

    Returns (scores float64 [n, count], variances [count]), largest variance first. The sign is
    fixed: the loading of largest magnitude is positive.
    """
    rows = np.asarray(rows, np.float64)
    rows = rows - rows.mean(axis=0)
    variance, vectors = np.linalg.eigh(rows.T @ rows / len(rows))  # ascending
    variance, vectors = variance[::-1][:count], vectors[:, ::-1][:, :count]
    largest = np.argmax(np.abs(vectors), axis=0)
    vectors = vectors * np.where(vectors[largest, np.arange(count)] < 0, -1.0, 1.0)
    return rows @ vectors, variance


def similarity(patch_tokens, point):
    """Cosine of every patch with the patch at ``point``, float32 [h, w] in [-1, 1].

    ``patch_tokens``: [h, w, D] float. ``point``: (row, column) on the patch grid.
    """
    x = np.asarray(patch_tokens, np.float32)
    if x.ndim != 3:
        raise ValueError(f"patch_tokens has shape {x.shape}, wanted [h, w, D] of one image")
    row, column = point
    if not (0 <= row < x.shape[0] and 0 <= column < x.shape[1]):
        raise ValueError(f"point {point} is outside the patch grid of {x.shape[0]} x {x.shape[1]}")
    return similarity_to(x, x[row, column])


def similarity_to(patch_tokens, token):
    """Cosine of every patch with ``token`` [D], of this image or another, float32 [h, w]."""
    x, token = np.asarray(patch_tokens, np.float32), np.asarray(token, np.float32)
    return np.clip(_unit(x) @ _unit(token), -1.0, 1.0)


def heat(cosine):
    """Cosines [...] as colours, uint8 [..., 3]: 0 and below dark, 1 bright, NaN mid-grey.

    The scale never follows the values, so pictures of different features compare.
    """
    unit = np.clip(np.asarray(cosine, np.float64), 0.0, 1.0)
    colours = np.round(255 * colormaps["magma"](np.nan_to_num(unit))[..., :3])
    return np.where(np.isnan(unit)[..., None], 128, colours).astype(np.uint8)


def nearest(cls, bank, k):
    """Indices of the k bank entries of highest cosine, best first, lower index on a tie.

    ``cls``: [n, D]; ``bank``: [m, D]; 1 <= k <= m. Returns int [n, k].
    """
    cls, bank = np.asarray(cls, np.float32), np.asarray(bank, np.float32)
    if cls.ndim != 2 or bank.ndim != 2 or cls.shape[1] != bank.shape[1]:
        raise ValueError(f"cls is {cls.shape}, bank is {bank.shape}; wanted [n, D] and [m, D]")
    if not 1 <= k <= len(bank):
        raise ValueError(f"got k = {k}, wanted 1 to the {len(bank)} images of the bank")
    return np.argsort(-(_unit(cls) @ _unit(bank).T), axis=1, kind="stable")[:, :k]


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
