"""Errors of a depth map, of one image at a time; a data set's are their means over images."""

import numpy as np

# (first, last) row and column of what is scored, as parts of the image.
CROPS = {
    "none": (0.0, 1.0, 0.0, 1.0),
    "eigen": (45 / 480, 471 / 480, 41 / 640, 601 / 640),  # NYU: of 480 x 640 pixels
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),  # KITTI
}


def scored(depth: np.ndarray, *, crop: str, least: float, most: float) -> np.ndarray:
    """bool [H, W]: pixels inside ``CROPS[crop]`` whose depth is between ``least`` and ``most``
    metres, both excluded; so a depth of 0, unknown, is never scored."""
    top, bottom, left, right = CROPS[crop]
    height, width = depth.shape
    inside = np.zeros(depth.shape, bool)
    # Cut to whole pixels; 1e-6, because 45 / 480 · 480 may fall short of 45.
    rows = slice(int(top * height + 1e-6), int(bottom * height + 1e-6))
    columns = slice(int(left * width + 1e-6), int(right * width + 1e-6))
    inside[rows, columns] = True
    return inside & (depth > least) & (depth < most)


def errors(predicted: np.ndarray, depth: np.ndarray) -> dict[str, float]:
    """Errors of predicted metres p of pixels whose depth is d, both [n], positive, n >= 1.

    ``rmse`` and ``mae`` in metres, ``sq_rel`` = mean (p - d)² / d in metres, ``abs_rel`` =
    mean |p - d| / d, ``rmse_log`` of natural logarithms, ``log10`` = mean |log10 p - log10 d|,
    ``silog`` = 100 times the standard deviation of log p - log d, and ``a1``, ``a2``, ``a3``:
    percent of pixels with max(p/d, d/p) < 1.25, 1.25², 1.25³. Computed in float64.

    Raises ``ValueError`` for other shapes and for depths that are not positive.
    """
    p, d = np.asarray(predicted, np.float64), np.asarray(depth, np.float64)
    if p.shape != d.shape or p.ndim != 1 or not p.size:
        raise ValueError(f"depths are {p.shape} and {d.shape}, wanted [n] both, n >= 1")
    if not (min(p.min(), d.min()) > 0):
        raise ValueError(f"depths start at {p.min()} and {d.min()} m, wanted positive ones")
    log = np.log(p) - np.log(d)
    ratio = np.maximum(p / d, d / p)
    return {
        "rmse": float(np.sqrt(np.mean((p - d) ** 2))),
        "abs_rel": float(np.mean(np.abs(p - d) / d)),
        "sq_rel": float(np.mean((p - d) ** 2 / d)),
        "mae": float(np.mean(np.abs(p - d))),
        "rmse_log": float(np.sqrt(np.mean(log**2))),
        "log10": float(np.mean(np.abs(log)) / np.log(10)),
        "silog": float(100 * np.std(log)),
        **{f"a{i}": float(100 * np.mean(ratio < 1.25**i)) for i in (1, 2, 3)},
    }


def align(predicted: np.ndarray, depth: np.ndarray) -> tuple[float, float]:
    """(scale, shift) with the least Σ (scale · predicted + shift - depth)²; both [n].

    A constant prediction has no scale: it keeps 1, and the shift takes the means together.
    """
    p, d = np.asarray(predicted, np.float64), np.asarray(depth, np.float64)
    spread = np.mean((p - p.mean()) ** 2)
    scale = np.mean((p - p.mean()) * (d - d.mean())) / spread if spread > 0 else 1.0
    return float(scale), float(d.mean() - scale * p.mean())
