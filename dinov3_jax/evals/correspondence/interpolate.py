"""Feature maps between their patches: bilinear at points, bicubic to another size."""

import numpy as np

CUBIC = -0.75  # slope of the kernel, as PyTorch and OpenCV have it; jax.image has -.5


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


def bicubic(tokens: np.ndarray, height: int, width: int) -> np.ndarray:
    """[h, w, D] -> float32 [height, width, D], without antialiasing.

    Cubic convolution of slope -.75; pixel centres are at (i + .5) / size, edges are repeated. What
    ``torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`` computes.
    """
    rows = bicubic_weights(tokens.shape[0], height).astype(np.float32)
    columns = bicubic_weights(tokens.shape[1], width).astype(np.float32)
    wide = np.tensordot(tokens, columns, axes=(1, 1))  # [h, D, width]
    return np.tensordot(rows, wide, axes=(1, 0)).swapaxes(1, 2)


def bicubic_weights(size: int, new: int) -> np.ndarray:
    """Weights float64 [new, size] of ``bicubic`` along one axis; rows sum to 1."""
    place = (np.arange(new) + 0.5) * size / new - 0.5
    first = np.floor(place).astype(int) - 1
    weights = np.zeros((new, size))
    for tap in range(4):
        distance = np.abs(place - (first + tap))
        inner = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
        outer = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
        value = np.where(distance <= 1, inner, outer)
        np.add.at(weights, (np.arange(new), np.clip(first + tap, 0, size - 1)), value)
    return weights
