"""PCA whitening of descriptors, learned on one set of images and applied to others."""

from typing import NamedTuple

import numpy as np

from dinov3_jax.config import ConfigError

FLOOR = 1e-5  # of the largest variance: directions below it would only amplify rounding


class Whitening(NamedTuple):
    mean: np.ndarray  # float64 [D]
    projection: np.ndarray  # float64 [D, d]


def fit_whitening(x: np.ndarray, dims: int) -> Whitening:
    """Whitening of the ``dims`` directions of largest variance of ``x`` [n, D].

    (x - mean) @ projection has identity covariance (over n), where projection = V / sqrt(v) with
    the eigenvectors V and eigenvalues v of the covariance of x; v is at least 1e-5 of the largest.
    ``dims`` is 1 to D. Raises ``ConfigError`` for fewer than 2 rows, or equal ones.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ConfigError(
            f"x is {list(x.shape)}, wanted [n, D] with n >= 2 to learn whitening from"
        )
    if not 1 <= dims <= x.shape[1]:
        raise ValueError(f"dims is {dims}, wanted 1 to the {x.shape[1]} of the descriptors")
    mean = x.mean(axis=0)
    centred = x - mean
    variance, vectors = np.linalg.eigh(centred.T @ centred / len(x))  # ascending
    variance, vectors = variance[::-1][:dims], vectors[:, ::-1][:, :dims]
    if variance[0] <= 0:
        raise ConfigError(f"all {len(x)} rows are equal; there is nothing to whiten")
    return Whitening(mean, vectors / np.sqrt(np.maximum(variance, FLOOR * variance[0])))


def whiten(whitening: Whitening, x: np.ndarray) -> np.ndarray:
    """Whitened rows of length 1, float32 [n, d]; a row that is the mean becomes zeros."""
    rows = (np.asarray(x, np.float64) - whitening.mean) @ whitening.projection
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return (rows / np.maximum(length, 1e-12)).astype(np.float32)
