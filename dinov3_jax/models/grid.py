"""Patch tokens of one grid, interpolated to another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_CUBIC = -0.75
_EXACT = jax.lax.Precision.HIGHEST


def resize(
    tokens: jax.Array,
    old: tuple[int, int],
    new: tuple[int, int],
    *,
    method: str = "bicubic",
    antialias: bool = False,
) -> jax.Array:
    """[n, h·w, D] -> [n, h'·w', D], float32; the identity where the grids agree.

    method: "bicubic" or "bilinear", pixel centres aligned (not corners), the border repeated.
    antialias: the kernel widens as the grid shrinks. Bicubic is cubic convolution with a = -0.75
    over 4 old cells without antialiasing, and a = -0.5 with it, as in PyTorch and Pillow.
    """
    tokens = tokens.astype(jnp.float32).reshape(len(tokens), *old, -1)
    if old != new and method == "bicubic" and not antialias:
        rows, columns = (_cubic_matrix(a, b) for a, b in zip(old, new))
        tokens = jnp.einsum("ah,bw,nhwd->nabd", rows, columns, tokens, precision=_EXACT)
    elif old != new:
        shape = (len(tokens), *new, tokens.shape[-1])
        kernel = {"bicubic": "cubic", "bilinear": "linear"}[method]
        tokens = jax.image.resize(tokens, shape, kernel, antialias=antialias, precision=_EXACT)
    return tokens.reshape(len(tokens), new[0] * new[1], -1)


@functools.lru_cache
def _cubic_matrix(old: int, new: int) -> np.ndarray:
    """float32 [new, old]; rows sum to 1."""
    position = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(position).astype(int) - 1
    matrix = np.zeros((new, old))
    for tap in range(4):
        distance = np.abs(position - (first + tap))
        near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
        far = _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        np.add.at(matrix, (np.arange(new), np.clip(first + tap, 0, old - 1)), weight)
    return matrix.astype(np.float32)
