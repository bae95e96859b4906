"""Axial rotary position embedding (RoPE) over a patch grid, with its training augmentation.

A patch at normalised centre (y, x) in [-1, 1]² turns feature pair j of a head by the angle
2π·y / period_j (first quarter of the pairs' C/2) or 2π·x / period_j (second quarter). No learned
parameter; any grid size and aspect ratio. Source: DINOv3 paper, section 3.2.
"""

import jax
import jax.numpy as jnp


def periods(
    head_dim: int,
    *,
    base: float | None = None,
    min_period: float | None = None,
    max_period: float | None = None,
) -> jax.Array:
    """``base^(2j / (C/2))`` for j < C/4, or geometric from ``min_period`` to ``max_period``.

    Returns float32 [C/4].
    """
    quarter = head_dim // 4
    if base is not None:
        return base ** (2.0 * jnp.arange(quarter, dtype=jnp.float32) / (head_dim // 2))
    if min_period is None or max_period is None:
        raise ValueError(f"base is None and periods are {min_period}, {max_period}; give both")
    exponents = jnp.linspace(0.0, 1.0, quarter, dtype=jnp.float32) - 1.0
    return max_period * (max_period / min_period) ** exponents


def coordinates(h: int, w: int, *, normalize: str = "separate") -> jax.Array:
    """Patch centres (y, x) in [-1, 1], float32 [h*w, 2], row-major.

    ``normalize`` divides by each axis' own length ("separate"), or both by the longer ("max") or
    the shorter ("min"; then the longer axis exceeds ±1).
    """
    # An export with symbolic h and w can divide by them, but not say which is longer.
    lengths = (h, w)
    if normalize != "separate":
        lengths = ({"max": max, "min": min}[normalize](h, w),) * 2
    y = (jnp.arange(h, dtype=jnp.float32) + 0.5) / lengths[0]
    x = (jnp.arange(w, dtype=jnp.float32) + 0.5) / lengths[1]
    grid = jnp.stack(jnp.meshgrid(y, x, indexing="ij"), axis=-1)
    return 2.0 * grid.reshape(h * w, 2) - 1.0


def perturb(
    coords: jax.Array,
    key: jax.Array,
    *,
    shift: float | None = None,
    jitter: float | None = None,
    rescale: float | None = None,
) -> jax.Array:
    """Training augmentation of [N, 2] coordinates: shift, then jitter, then rescale.

    shift s: + U(-s, s) per axis; jitter j: x exp U(-ln j, ln j) per axis; rescale r: one factor
    exp U(-ln r, ln r) for both axes. ``None`` skips one.
    """
    shift_key, jitter_key, rescale_key = jax.random.split(key, 3)
    if shift is not None:
        coords = coords + jax.random.uniform(shift_key, (2,), minval=-shift, maxval=shift)
    if jitter is not None:
        bound = jnp.log(jitter)
        coords = coords * jnp.exp(jax.random.uniform(jitter_key, (2,), minval=-bound, maxval=bound))
    if rescale is not None:
        bound = jnp.log(rescale)
        coords = coords * jnp.exp(
            jax.random.uniform(rescale_key, (1,), minval=-bound, maxval=bound)
        )
    return coords


def angles(coords: jax.Array, periods: jax.Array) -> jax.Array:
    """Coordinates [..., N, 2] and periods [C/4] -> angles [..., N, C], both halves alike."""
    turns = 2.0 * jnp.pi * coords[..., :, None] / periods  # [..., N, 2, C/4]
    half = turns.reshape(*turns.shape[:-2], -1)  # [..., N, C/2]: y pairs, then x pairs
    return jnp.concatenate([half, half], axis=-1)


def rotate(x: jax.Array, sin: jax.Array, cos: jax.Array) -> jax.Array:
    """Turns the last N of T tokens: x·cos + [-x₂, x₁]·sin with x = [x₁, x₂] halved along C.

    x [..., T, A, C]; sin, cos broadcastable to [..., N, 1, C]. CLS and storage tokens, which stand
    before the patches, pass unturned. Computed in the dtype of ``sin``, returned in that of x.
    """
    dtype, prefix = x.dtype, x.shape[-3] - sin.shape[-3]
    x = x.astype(sin.dtype)
    head, patches = x[..., :prefix, :, :], x[..., prefix:, :, :]
    first, second = jnp.split(patches, 2, axis=-1)
    turned = patches * cos + jnp.concatenate([-second, first], axis=-1) * sin
    return jnp.concatenate([head, turned], axis=-3).astype(dtype)
