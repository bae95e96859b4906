"""Crop, resize and mirror as two matrix products, with the box as data; plain resizes."""

import jax
import jax.numpy as jnp

_CUBIC = -0.5  # Pillow's bicubic; OpenCV uses -0.75
_SUPPORT = 2.0  # half width of the cubic kernel, in pixels of the coarser grid
_SLACK = 1e-3  # pixels; rounding of a scaled box must not reach into the next pixel


def crop_resize(canvas: jax.Array, box: jax.Array, flip: jax.Array, *, size: int) -> jax.Array:
    """Antialiased bicubic resize of boxes of an image, mirrored where ``flip``.

    canvas: uint8 [B, C, C, 3]; box: float32 [B, G, 4] (y, x, height, width in pixels, may be
    fractional); flip: bool [B, G]. Returns float32 [B, G, size, size, 3] in [0, 255], not rounded.
    As in Pillow's ``crop().resize(BICUBIC)``, no pixel outside the box contributes.
    """
    pixels = canvas.shape[1]
    rows = resize_weights(box[..., 0], box[..., 2], pixels=pixels, size=size)  # [B, G, size, C]
    columns = resize_weights(box[..., 1], box[..., 3], pixels=pixels, size=size)
    columns = jnp.where(flip[..., None, None], columns[..., ::-1, :], columns)
    levels = canvas.astype(jnp.float32)
    # Rows of pixels first and a clip after each product, as Pillow does: the kernel overshoots.
    levels = jnp.einsum("bgjw,bhwc->bghjc", columns, levels)  # [B, G, C, size, 3]
    levels = jnp.clip(levels, 0, 255)
    levels = jnp.einsum("bgih,bghjc->bgijc", rows, levels)  # [B, G, size, size, 3]
    return jnp.clip(levels, 0, 255)


def resize(levels: jax.Array, *, size: int) -> jax.Array:
    """Antialiased bicubic resize of whole square pictures.

    levels: float32 [..., p, p, 3] in [0, 255]. Returns [..., size, size, 3], the same range.
    """
    pixels = levels.shape[-2]
    if size == pixels:
        return levels
    start, length = jnp.float32(0), jnp.float32(pixels)
    weights = resize_weights(start, length, pixels=pixels, size=size)  # [size, p]
    levels = jnp.clip(jnp.einsum("jw,...hwc->...hjc", weights, levels), 0, 255)
    return jnp.clip(jnp.einsum("ih,...hjc->...ijc", weights, levels), 0, 255)


def resize_weights(start: jax.Array, length: jax.Array, *, pixels: int, size: int) -> jax.Array:
    """Share of each of ``pixels`` inputs in each of ``size`` outputs of a resized interval.

    start, length: float32 [...], in input pixels. Returns float32 [..., size, pixels]; rows sum
    to 1.
    """
    start, length = start[..., None, None], length[..., None, None]
    scale = length / size
    blur = jnp.maximum(scale, 1)  # the kernel widens when shrinking, else details alias
    centre = start + (jnp.arange(size, dtype=jnp.float32)[:, None] + 0.5) * scale
    position = jnp.arange(pixels, dtype=jnp.float32)
    weight = _cubic((position + 0.5 - centre) / blur)  # [..., size, pixels]
    first, end = jnp.floor(start + _SLACK), jnp.ceil(start + length - _SLACK)
    weight = jnp.where((position >= first) & (position < end), weight, 0)
    return weight / weight.sum(axis=-1, keepdims=True)


def _cubic(x: jax.Array) -> jax.Array:
    x = jnp.abs(x)
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * _CUBIC - 4 * _CUBIC
    return jnp.where(x < 1, near, jnp.where(x < _SUPPORT, far, 0))
