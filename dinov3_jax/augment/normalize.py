"""Pixel levels to the numbers the network sees."""

import jax
import jax.numpy as jnp


def normalize(levels: jax.Array, *, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """(levels / 255 - mean) / std, float32, same shape.

    levels: [..., c], uint8 or float in [0, 255]; mean and std [c] are of pixels in [0, 1].
    """
    scale = jnp.float32(1 / 255) / jnp.asarray(std, jnp.float32)
    offset = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
    return levels.astype(jnp.float32) * scale - offset
