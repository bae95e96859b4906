"""Images through a compiled function on all devices of a mesh, on one process or several."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dinov3_jax.distributed import agree
from dinov3_jax.distributed.mesh import batch_shards, global_batch, local_shards


def in_batches(
    compute: Callable[[jax.Array], Any], images: np.ndarray, *, size: int, mesh: Mesh
) -> Any:
    """``compute`` of ``images`` [n, H, W, 3], ``size`` at a time: its tree of arrays [n, ...].

    ``compute`` takes an array [size, H, W, 3] sharded on images over ``mesh`` and returns a tree
    of arrays [size, ...]; ``size`` is a multiple of ``batch_shards(mesh)``. The last batch is
    filled up with black images whose rows are dropped; for n = 0 one such batch is computed, which
    gives the shapes [0, ...]. All processes call with the same images, and all get all rows.
    """
    shards, mine = batch_shards(mesh), local_shards(mesh)
    parts = []
    for start in range(0, max(len(images), 1), size):
        chunk = images[start : start + size]
        padded = np.zeros((size, *images.shape[1:]), images.dtype)
        padded[: len(chunk)] = chunk
        local = np.concatenate([np.split(padded, shards)[shard] for shard in mine])
        with jax.set_mesh(mesh):
            made = compute(global_batch({"images": local}, mesh)["images"])
            rows = len(chunk)
            parts.append(jax.tree.map(lambda x, rows=rows: agree.fetch(x)[:rows], made))
    return jax.tree.map(lambda *found: np.concatenate(found), *parts)
