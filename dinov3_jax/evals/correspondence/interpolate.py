"""Feature maps between their patches: bilinear at points."""

import numpy as np


def sample(tokens: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear values of ``tokens`` [h, w, D] at points of its grid, float32 [n, D].

    ``x`` and ``y`` float [n]: patch (i, j) is at x = j, y = i. Points outside take the value of the
    nearest edge.
    """
    h, w = tokens.shape[:2]
    x, y = np.clip(x, 0, w - 1), np.clip(y, 0, h - 1)
    left, top = (np.minimum(p.astype(int), size - 1) for p, size in ((x, w), (y, h)))
    right, below = np.minimum(left + 1, w - 1), np.minimum(top + 1, h - 1)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    above = tokens[top, left] * (1 - fx) + tokens[top, right] * fx
    under = tokens[below, left] * (1 - fx) + tokens[below, right] * fx
    return (above * (1 - fy) + under * fy).astype(np.float32)
