"""Points in space: from depth, from one camera to another. Axes point right, down, forward."""

import numpy as np

from dinov3_jax.data.benchmarks.navi import View


def unproject(
    depth: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, focal: float
) -> np.ndarray:
    """Points that pixels show, float32 [len(rows), len(columns), 3], in the unit of the depth.

    ``depth`` float [h, w], along the axis of the camera, which goes through the middle of the
    image; 0 means unknown, and gives the point 0. ``focal`` is in pixels.
    """
    h, w = depth.shape
    z = depth[np.ix_(rows, columns)]
    x = (columns + 0.5 - w / 2) / focal
    y = (rows + 0.5 - h / 2) / focal
    return np.stack([z * x, z * y[:, None], z], axis=-1).astype(np.float32)


def move(points: np.ndarray, source: View, target: View) -> np.ndarray:
    """Points [n, 3] on the axes of one camera -> on those of another."""
    on_object = (points - source.translation) @ source.rotation  # the inverse is the transpose
    return on_object @ target.rotation.T + target.translation


def angle(a: View, b: View) -> float:
    """Degrees, 0 to 180, by which one camera is turned against another."""
    cosine = (np.trace(a.rotation @ b.rotation.T) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
