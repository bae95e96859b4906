"""Where in one image is the point of another: the patch of highest cosine."""

import numpy as np

from dinov3_jax.evals.correspondence.interpolate import sample
from dinov3_jax.evals.retrieval.metrics import unit


def best_patches(
    tokens_a: np.ndarray, x: np.ndarray, y: np.ndarray, tokens_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Row and column int [k] of the patch of ``tokens_b`` that is most like each point.

    ``tokens_a`` [h, w, D] of unit length are interpolated at ``x``, ``y`` float [k] on its grid
    (patch (i, j) is at x = j, y = i); the largest product with ``tokens_b`` [h', w', D] of unit
    length wins, the first in reading order among equals.
    """
    points = sample(unit(tokens_a), x, y)  # [k, D]
    h, w, D = tokens_b.shape
    return np.divmod((points @ unit(tokens_b).reshape(h * w, D).T).argmax(axis=1), w)
