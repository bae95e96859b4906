"""Depth from weights of bins, and the loss a depth probe is trained with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dinov3_jax.evals.dense.bilinear import bilinear
from dinov3_jax.models.depth import bin_mean
from dinov3_jax.models.dpt import SYNTHMIX

_OFFSET = 1e-3  # metres, added before logarithms
_MEAN_ONLY = 100  # steps whose loss leaves the variance out


def metres(logits: jax.Array, *, least: float, most: float) -> jax.Array:
    """Logits [..., bins] -> metres [...]: Σ w d / Σ w, w = relu(logit) + 0.1, over depths d evenly
    from ``least`` to ``most``."""
    bins = logits.shape[-1]
    linear = dataclasses.replace(SYNTHMIX, bins=bins, min_depth=least, max_depth=most)
    return bin_mean(logits, linear)


def whole_patches(
    size: tuple[int, ...], cells: tuple[int, ...], stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """(rows [H, h], columns [W, w]): ``rows @ map @ columns.T`` takes a map [h, w] of the patches
    of an image that ``padded`` has brought to whole patches to its pixels ``size`` = (H, W)."""
    rows, columns = (
        bilinear(count, length)[first : first + side]
        for count, side, (first, length) in zip(cells, size, _padding(size, stride))
    )
    return rows, columns


def padded(image: np.ndarray, stride: int, fill: tuple[int, ...]) -> np.ndarray:
    """uint8 [H, W, 3] in the middle of the smallest image of whole patches, the rest ``fill``."""
    (top, height), (left, width) = _padding(image.shape[:2], stride)
    out = np.empty((height, width, 3), np.uint8)
    out[:] = fill
    out[top : top + image.shape[0], left : left + image.shape[1]] = image
    return out


def loss(
    logits: jax.Array,
    depth: jax.Array,
    step: jax.Array,
    *,
    size: tuple[int, int],
    stride: int,
    least: float,
    most: float,
) -> jax.Array:
    """``sig_loss`` of the metres of patches, interpolated to the ``size`` of ``depth`` [n, H, W].

    logits: [n, h, w, bins] of ``padded`` images.
    """
    patches = metres(logits, least=least, most=most)
    rows, columns = whole_patches(size, patches.shape[1:], stride)
    predicted = jnp.einsum("ya,xb,nab->nyx", rows, columns, patches, precision="highest")
    return sig_loss(predicted, depth, step, least=least, most=most)


def sig_loss(
    predicted: jax.Array, depth: jax.Array, step: jax.Array, *, least: float, most: float
) -> jax.Array:
    """sqrt(var(g) + 0.15 mean(g)²) with g = log(predicted + 0.001) - log(depth + 0.001), over all
    pixels whose depth is between ``least`` and ``most``, both excluded; any one shape.

    The variance has n - 1 in its denominator, and is left out of the first 100 steps. 1e-10 at
    least, also where no pixel has a depth.
    """
    known = (depth > least) & (depth < most)
    count = known.sum()
    g = jnp.where(known, jnp.log(predicted + _OFFSET) - jnp.log(depth + _OFFSET), 0.0)
    mean = g.sum() / jnp.maximum(count, 1)
    var = jnp.where(known, (g - mean) ** 2, 0.0).sum() / jnp.maximum(count - 1, 1)
    square = jnp.where(step < _MEAN_ONLY, 0.0, var) + 0.15 * mean**2
    return jnp.sqrt(jnp.maximum(square, 1e-20))  # the root has no finite gradient at 0


def _padding(size, stride):
    """(first pixel, length) of an axis after padding, for each side."""
    lengths = [-(-side // stride) * stride for side in size]
    return [((length - side) // 2, length) for side, length in zip(size, lengths)]
