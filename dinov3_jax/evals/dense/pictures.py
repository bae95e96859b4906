"""Pictures of dense predictions: image, truth and prediction side by side."""

import functools

import numpy as np
from matplotlib import colormaps, colors
from PIL import Image

from dinov3_jax.evals.dense.miou import IGNORED
from dinov3_jax.evals.draw import beside, overlay

_LONG = 512  # pixels of the longer side of a picture
_UNKNOWN = 96  # grey level of pixels without truth
_GOLDEN = 0.618033988749895  # turns between the hues of neighbouring classes: all stay apart


def extremes(scores: dict[int, float], count: int = 3) -> list[int]:
    """Keys of the ``count`` lowest and the ``count`` highest scores, in order of score, each once;
    of equal scores the smaller key comes first."""
    order = sorted(scores, key=lambda i: (scores[i], i))
    return order if len(order) <= 2 * count else order[:count] + order[-count:]


def class_row(image: np.ndarray, labels: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Image uint8 [H, W, 3] | true classes over it | predicted ones; labels, called [H, W]."""
    return _row(image, *(overlay(image, class_colours(found)) for found in (labels, called)))


def depth_row(image: np.ndarray, depth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Image uint8 [H, W, 3] | true depth | predicted depth, metres [H, W] of a size of their own.

    One scale of colours, from the smallest (bright) to the largest true depth (dark); grey where
    the truth is 0, unknown.
    """
    known = depth[depth > 0]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    size = (image.shape[1], image.shape[0])
    drawn = []
    for metres in (depth, predicted):
        unit = np.clip((metres - low) / max(high - low, 1e-6), 0, 1)
        colours = np.round(255 * colormaps["magma_r"](unit)[..., :3]).astype(np.uint8)
        colours[metres <= 0] = _UNKNOWN
        drawn.append(np.asarray(Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)))
    return _row(image, *drawn)


def class_colours(labels: np.ndarray) -> np.ndarray:
    """uint8 [..., 3]: the same colour for a class in every picture, grey for 255."""
    return _palette()[labels]


@functools.cache
def _palette():
    hues = np.arange(256) * _GOLDEN % 1
    saturation = np.where(np.arange(256) % 2, 0.95, 0.65)
    palette = colors.hsv_to_rgb(np.stack([hues, saturation, np.ones(256)], axis=-1))
    palette = np.round(255 * palette).astype(np.uint8)
    palette[IGNORED] = _UNKNOWN
    return palette


def _row(*panels):
    row = functools.reduce(beside, panels)
    factor = min(1.0, _LONG / max(row.shape[:2]))
    size = [max(1, int(side * factor)) for side in (row.shape[1], row.shape[0])]
    return np.asarray(Image.fromarray(row).resize(size, Image.Resampling.BILINEAR))
