"""Embeddings on the way from memory or disk to the mesh, a chunk of whole row tiles at a time.

A matrix product of a fixed shape gives the same bits wherever it runs. So every product of this
package is one of ``ROWS`` rows with ``tile(k)`` columns, whatever the number of devices; devices
only share out whole tiles, and no result depends on how many there are.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

ROWS = 1024  # of a row tile: with 256 columns it was the fastest of those tried on a CPU
TILES = 16  # row tiles a chunk at most: enough work between two words with the host


def tile(k: int) -> int:
    """Columns of a tile of ``k`` centroids or pool rows: small ones share out, large ones feed."""
    return 256 if k < 1 << 16 else 2048


def check_points(name: str, points) -> None:
    """Raises ``ValueError`` unless ``points`` has shape [n >= 1, D >= 1] and a float dtype."""
    if len(points.shape) != 2 or 0 in points.shape:
        raise ValueError(
            f"{name} has shape {tuple(points.shape)}, wanted [n, D] with at least 1 row and column"
        )
    if not jnp.issubdtype(points.dtype, jnp.floating):
        raise ValueError(f"{name} has dtype {points.dtype}, wanted floats; give embeddings")


def check_search(queries, pool, k: int) -> None:
    """Raises ``ValueError`` unless each of ``queries`` [q, D] can have k neighbours in ``pool``."""
    check_points("queries", queries)
    check_points("pool", pool)
    if queries.shape[1] != pool.shape[1]:
        raise ValueError(
            f"queries have width D = {queries.shape[1]}, the pool has {pool.shape[1]}; "
            "take both from the same model"
        )
    if not 1 <= k <= len(pool):
        raise ValueError(f"k is {k}, the pool has {len(pool)} rows; wanted 1 to {len(pool)}")


def chunks(name: str, points, mesh: Mesh) -> Iterator[tuple[int, int, jax.Array]]:
    """(first row, real rows, [m, D] sharded on rows over all of ``mesh``), in order.

    ``points`` [n, D] is read slice by slice (an array, ``np.memmap``, anything with ``shape``,
    ``dtype`` and slices): each process reads the rows of its own devices. bfloat16 stays, all else
    becomes float32. The last chunk is filled up with zeros: m is a multiple of ``ROWS`` times the
    devices. Raises ``ValueError`` at the first row that is not finite.
    """
    n, D = points.shape
    tiles = -(-n // (ROWS * mesh.size))  # of each device, in all
    count = -(-tiles // max(TILES // mesh.size, 1))
    m = ROWS * mesh.size * -(-tiles // count)  # chunks of one size, with little filling
    sharding = NamedSharding(mesh, P(mesh.axis_names))
    for first in range(0, n, m):

        def load(index, first=first):
            start, stop, _ = index[0].indices(m)
            rows = read(name, points, slice(first + start, first + stop))
            return np.pad(rows, ((0, stop - start - len(rows)), (0, 0)))

        yield first, min(m, n - first), jax.make_array_from_callback((m, D), sharding, load)


def dtype_of(points):
    """What rows of ``points`` have on the mesh: bfloat16 stays, all else becomes float32."""
    return jnp.bfloat16 if points.dtype == jnp.bfloat16 else np.float32


def read(name: str, points, which: slice | np.ndarray) -> np.ndarray:
    """Rows ``points[which]`` in ``dtype_of(points)``; ``ValueError`` if one is not finite."""
    rows = np.asarray(points[which], dtype_of(points))
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        bad = np.arange(len(points))[which][np.argmin(finite)]
        raise ValueError(f"{name}: row {bad} is not finite; embed that image again or leave it out")
    return rows


def replicated(x: jax.Array, mesh: Mesh) -> np.ndarray:
    """A sharded array as a whole, in every process."""
    return np.asarray(jax.device_put(x, NamedSharding(mesh, P())))
