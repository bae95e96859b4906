"""Matches between the patches of two images: each to its most similar one, thinned and verified."""

from typing import NamedTuple

import numpy as np

from dinov3_jax.evals.retrieval.metrics import unit


class Matches(NamedTuple):
    """Patches that belong together, the most similar first."""

    a: np.ndarray  # int [k], row-major on the grid of the first image
    b: np.ndarray  # int [k], on that of the second
    cosine: np.ndarray  # float32 [k]


def match(
    a: np.ndarray,
    b: np.ndarray,
    *,
    mutual: bool,
    mask_a: np.ndarray | None = None,
    mask_b: np.ndarray | None = None,
) -> Matches:
    """Of every patch of ``a`` the patch of ``b`` of highest cosine.

    Args:
      a: patch tokens float [h, w, D].
      b: [h', w', D].
      mutual: keep those alone whose patch of ``b`` has the patch of ``a`` as its own best, too.
      mask_a: bool [h, w]; only its true patches take part, as a foreground has them.
      mask_b: bool [h', w'].

    Raises ``ValueError`` for other shapes and for a mask without a true patch.
    """
    if a.ndim != 3 or b.ndim != 3 or a.shape[2] != b.shape[2]:
        raise ValueError(f"tokens are {a.shape} and {b.shape}, wanted [h, w, D] and [h', w', D]")
    kept_a, kept_b = (_kept(*pair) for pair in ((a, mask_a), (b, mask_b)))
    cosine = unit(a.reshape(-1, a.shape[2])[kept_a]) @ unit(b.reshape(-1, b.shape[2])[kept_b]).T
    best = cosine.argmax(axis=1)
    rows = np.arange(len(kept_a))
    if mutual:
        rows = rows[cosine.argmax(axis=0)[best] == rows]
    value = cosine[rows, best[rows]]
    order = np.argsort(-value, kind="stable")
    return Matches(kept_a[rows[order]], kept_b[best[rows[order]]], value[order])


def centres(index: np.ndarray, grid: tuple[int, int], *, stride: float) -> np.ndarray:
    """Patches int [k] of a grid (h, w) -> their centres (x, y) in pixels, float [k, 2]."""
    y, x = np.divmod(index, grid[1])
    return (np.stack([x, y], axis=1) + 0.5) * stride


def spread(points: np.ndarray, distance: float) -> np.ndarray:
    """Which of ``points`` [k, 2] to keep so that no two are closer than ``distance``: int, sorted.

    The point with the most others within the distance goes first, of equals the later one, until
    none has any: of a crowd few stay, and lonely points all do.
    """
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    close = apart < distance
    np.fill_diagonal(close, False)
    crowd = close.sum(axis=1)
    kept = np.ones(len(points), bool)
    while crowd.any():
        worst = len(points) - 1 - int(np.argmax(crowd[::-1]))
        kept[worst] = False
        close[worst] = close[:, worst] = False
        crowd = close.sum(axis=1)
    return np.flatnonzero(kept)


def affine_inliers(
    a: np.ndarray, b: np.ndarray, *, tolerance: float, trials: int = 1000, seed: int = 0
) -> np.ndarray:
    """Which pairs of points one affine map explains, bool [k]: RANSAC.

    Of ``trials`` maps through 3 random pairs the one counts that brings most points of ``a``
    [k, 2] to within ``tolerance`` of their partners in ``b`` [k, 2]. Raises ``ValueError`` for
    fewer than 4 pairs: any 3 have an affine map.
    """
    if len(a) < 4 or a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} points; wanted equally many, at least 4")
    rng = np.random.default_rng(seed)
    homogeneous = np.concatenate([a, np.ones((len(a), 1))], axis=1)  # [k, 3]
    best = np.zeros(len(a), bool)
    for _ in range(trials):
        three = rng.choice(len(a), 3, replace=False)
        if abs(np.linalg.det(homogeneous[three])) < 1e-6:  # on a line: no map
            continue
        moved = homogeneous @ np.linalg.solve(homogeneous[three], b[three])
        found = np.linalg.norm(moved - b, axis=1) <= tolerance
        if found.sum() > best.sum():
            best = found
    return best


def _kept(tokens, mask):
    if mask is None:
        return np.arange(tokens.shape[0] * tokens.shape[1])
    if mask.shape != tokens.shape[:2]:
        raise ValueError(f"the mask is {mask.shape}, wanted {tokens.shape[:2]}, one a patch")
    kept = np.flatnonzero(mask)
    if not len(kept):
        raise ValueError("the mask has no true patch; there is nothing to match")
    return kept
