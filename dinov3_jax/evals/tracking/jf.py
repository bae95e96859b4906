"""J and F of one object in one frame, as the DAVIS challenges measure them."""

import math

import numpy as np
from scipy.spatial import cKDTree

TOLERANCE = 0.008  # of the diagonal: how far a boundary may lie from the true one


def region_similarity(mask: np.ndarray, truth: np.ndarray) -> float:
    """J = |mask ∩ truth| / |mask ∪ truth| in [0, 1] of bool [H, W]; 1 where both are empty."""
    _check(mask, truth)
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def boundary_accuracy(mask: np.ndarray, truth: np.ndarray) -> float:
    """F = 2 P R / (P + R) in [0, 1] of bool [H, W].

    P is the share of the boundary of ``mask`` within ceil(``TOLERANCE`` * diagonal) pixels of
    that of ``truth``, R the share of the true one that near to that of ``mask``. 1 where neither
    has a boundary, 0 where one has none. Pont-Tuset et al., The 2017 DAVIS Challenge.
    """
    _check(mask, truth)
    ours, true = _boundary(mask), _boundary(truth)
    if not len(ours) or not len(true):
        return float(len(ours) == len(true))
    reach = math.ceil(TOLERANCE * math.hypot(*mask.shape))
    precision, recall = _near(ours, true, reach), _near(true, ours, reach)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _check(mask, truth):
    if mask.shape != truth.shape or mask.dtype != bool or truth.dtype != bool or mask.ndim != 2:
        raise ValueError(
            f"mask is {mask.dtype} {list(mask.shape)}, truth {truth.dtype} {list(truth.shape)}; "
            "wanted bool [H, W] of one size"
        )


def _boundary(mask):
    """[n, 2] pixels that differ from the one to the right, below, or below to the right."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here, right = padded[:-1, :-1], padded[:-1, 1:]
    below, across = padded[1:, :-1], padded[1:, 1:]
    return np.argwhere((here ^ right) | (here ^ below) | (here ^ across))


def _near(points, others, reach):
    """Share of ``points`` with one of ``others`` at most ``reach`` away: within its disk."""
    distance, _ = cKDTree(others).query(points, distance_upper_bound=reach + 1)
    return np.count_nonzero(distance <= reach) / len(points)
