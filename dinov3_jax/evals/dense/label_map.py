"""The class of every pixel of an image from the logits of its windows."""

import jax
import jax.numpy as jnp
import numpy as np

from dinov3_jax.distributed.mesh import alone

_TILE = 256  # pixels; images of like sizes share a program, and no map of all logits is held


def label_map(logits: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """uint8 [H, W]: argmax over C <= 255 of the averaged logits, the lowest class on a tie.

    logits: float [I, J, h, w, C] of I x J windows. rows [H, I, h] and columns [W, J, w]:
    ``sliding.axis`` of the two axes. Computed on a device of this process.
    """
    height, width = len(rows), len(columns)
    columns = np.pad(columns, ((0, -width % _TILE), (0, 0), (0, 0)))
    rows = np.pad(rows, ((0, -height % _TILE), (0, 0), (0, 0)))
    with alone():
        across = _across(logits, columns)
        tiles = [_argmax(across, rows[y : y + _TILE]) for y in range(0, height, _TILE)]
    return np.concatenate([np.asarray(tile) for tile in tiles])[:height, :width]


@jax.jit
def _across(logits, columns):
    return jnp.einsum("xjb,ijabc->iaxc", columns, logits, precision="highest")


@jax.jit
def _argmax(across, rows):
    total = jnp.einsum("yia,iaxc->yxc", rows, across, precision="highest")
    return jnp.argmax(total, axis=-1).astype(jnp.uint8)
