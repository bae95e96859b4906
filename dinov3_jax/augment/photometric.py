"""Colour operations on crops on the device; the host's twin is ``dinov3_jax.data.color``.

Levels are float32 in [0, 255] and are not rounded between operations, the host's are: the same
draws give the same picture to within a few levels.
"""

import jax
import jax.numpy as jnp

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2
_HUE = 3  # number of the hue in an order; 0 brightness, 1 contrast, 2 saturation
_TAPS = 9  # pixels of the blur's kernel


def jitter(levels: jax.Array, apply: jax.Array, order: jax.Array, factors: jax.Array) -> jax.Array:
    """Brightness, contrast, saturation and hue, in the order of each crop, where ``apply``.

    levels: [..., h, w, 3]; apply: bool [...]; order: int32 [..., 4], a permutation; factors:
    float32 [..., 4], by operation.

    Three of the four operations blend with a reference (black, the mean grey, the pixel's grey),
    so a step computes one blend and one hue turn and keeps one, not all four.
    """
    output = levels
    for step in range(4):
        operation = order[..., step]
        factor = jnp.take_along_axis(factors, operation[..., None], axis=-1)[..., 0]
        operation, factor = (x[..., None, None, None] for x in (operation, factor))
        blended = _blend(output, operation, factor)
        turned = turn_hue(output, jnp.trunc(factor * 255) / 255)  # the steps of 8-bit hues
        output = jnp.where(operation == _HUE, turned, blended)
    return jnp.where(apply[..., None, None, None], output, levels)


def turn_hue(levels: jax.Array, turns: jax.Array) -> jax.Array:
    """Turns the HSV colour circle by ``turns`` (1 is the whole circle), which broadcasts.

    levels: [..., 3]. Value and saturation stay, so a channel is value - chroma * f(hue) with a
    piecewise linear f; the hue is needed in sixths of the circle only.
    """
    red, green, blue = levels[..., 0:1], levels[..., 1:2], levels[..., 2:3]
    value = levels.max(axis=-1, keepdims=True)
    chroma = value - levels.min(axis=-1, keepdims=True)
    divisor = jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    offsets = jnp.array([5.0, 3.0, 1.0], jnp.float32)  # of red, green, blue
    k = jnp.mod(offsets + sixths + 6 * turns, 6)
    return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


def gray(levels: jax.Array, apply: jax.Array) -> jax.Array:
    """Luma in all three channels where ``apply`` [...]; levels: [..., h, w, 3]."""
    return jnp.where(apply[..., None, None, None], _luma(levels), levels)


def blur(levels: jax.Array, sigma: jax.Array) -> jax.Array:
    """Gaussian blur of 9 x 9 pixels, mirrored at the border; sigma 0 leaves a crop as it is.

    levels: [..., h, w, 3]; sigma: float32 [...], pixels.
    """
    reach = _TAPS // 2
    distance = jnp.arange(-reach, reach + 1, dtype=jnp.float32)
    width = jnp.maximum(sigma, 1e-3)[..., None]  # at 1e-3 all weight is on the middle
    kernel = jnp.exp(-0.5 * (distance / width) ** 2)
    kernel = kernel / kernel.sum(axis=-1, keepdims=True)  # [..., 9]
    for axis in (-3, -2):
        size = levels.shape[axis]
        padding = [(0, 0)] * levels.ndim
        padding[axis] = (reach, reach)
        padded = jnp.pad(levels, padding, mode="reflect")
        # Nine shifted sums: a convolution with a kernel of its own for each crop is far slower.
        levels = jnp.zeros_like(levels)
        for tap in range(_TAPS):
            shifted = jax.lax.slice_in_dim(padded, tap, tap + size, axis=axis)
            levels += kernel[..., tap, None, None, None] * shifted
    return levels


def solarize(levels: jax.Array, apply: jax.Array) -> jax.Array:
    """Inverts levels from 128 (127.5 before rounding) where ``apply`` [...]."""
    inverted = jnp.where(levels >= 127.5, 255 - levels, levels)
    return jnp.where(apply[..., None, None, None], inverted, levels)


def _blend(levels: jax.Array, operation: jax.Array, factor: jax.Array) -> jax.Array:
    luma = _luma(levels)
    mean = jnp.floor(luma.mean(axis=(-3, -2), keepdims=True) + 0.5)
    reference = jnp.where(operation == 0, 0, jnp.where(operation == 1, mean, luma))
    return jnp.clip(reference + factor * (levels - reference), 0, 255)


def _luma(levels: jax.Array) -> jax.Array:
    """[..., 3] -> [..., 1]. A sum, not a product with a vector, which a TPU would round to bf16."""
    red, green, blue = levels[..., 0:1], levels[..., 1:2], levels[..., 2:3]
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
