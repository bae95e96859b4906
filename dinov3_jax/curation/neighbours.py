"""Nearest neighbours by cosine. Exact on a mesh: the pool streams past the queries, sharded."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P

from dinov3_jax.curation.index import nearest_approximate
from dinov3_jax.curation.stream import ROWS, check_search, chunks, read

QUERIES = 8  # row tiles of queries that one reading of the pool serves


def nearest(
    queries, pool, k: int, *, mesh: Mesh, probes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of ``pool`` most similar to each query, by ``cos(q, p) = q.p / (|q| |p|)``.

    Similarity falls along k; among equals the lower index comes first, on any number of devices. A
    row of zeros has cosine 0 to everything. The pool is read once for every ``ROWS * QUERIES``
    queries.

    Args:
      queries: [q, D] float, array or ``np.memmap``; see ``stream.chunks``.
      pool: [n, D] float, likewise.
      k: neighbours, 1 to n.
      mesh: all its devices share the pool, whatever the names of its axes.
      probes: None, exact search; else ``index.nearest_approximate`` with so many lists a query, by
        Faiss on the cores of this host and not on the mesh, equals in any order.

    Returns:
      (index [q, k] int32, cosine [q, k] float32).

    Raises:
      ValueError: k out of range, other widths, nothing to search, rows that are not finite.
    """
    if probes is not None:
        return nearest_approximate(queries, pool, k, probes=probes)
    check_search(queries, pool, k)
    index = np.empty((len(queries), k), np.int32)
    cosine = np.empty((len(queries), k), np.float32)
    block = ROWS * QUERIES
    for start in range(0, len(queries), block):
        rows = np.asarray(read("queries", queries, slice(start, start + block)), np.float32)
        filled = np.pad(rows, ((0, -len(rows) % ROWS), (0, 0)))
        best = (
            np.full((len(filled), k), -np.inf, np.float32),
            np.zeros((len(filled), k), np.int32),
        )
        for first, real, chunk in chunks("pool", pool, mesh):
            best = _search(filled, chunk, first, real, *best, mesh=mesh)
        cosine[start : start + len(rows)] = np.asarray(best[0])[: len(rows)]
        index[start : start + len(rows)] = np.asarray(best[1])[: len(rows)]
    return index, cosine


@functools.partial(jax.jit, static_argnames="mesh")
def _search(queries, pool, first, real, cosine, index, *, mesh):
    """The best so far [q, k] and a chunk [m, D] of the pool, from row ``first`` on -> the best."""
    axes, k = mesh.axis_names, cosine.shape[1]

    def local(queries, pool, first, real):
        start = jax.lax.axis_index(axes) * len(pool)
        tiles = _unit(pool).reshape(-1, ROWS, pool.shape[1])

        def search(queries):  # [ROWS, D]
            # "highest": TPUs and recent GPUs would round the inputs.
            compare = lambda tile: jnp.matmul(queries, tile.T, precision="highest")  # noqa: E731
            new = jax.lax.map(compare, tiles)  # [tiles, ROWS, ROWS], queries in the middle
            cosine, row = _largest(new, real - start, min(k, len(pool)))
            return cosine, first + start + row

        found = jax.lax.map(search, _unit(queries).reshape(-1, ROWS, queries.shape[1]))
        found = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), found)
        # The devices hold ascending rows: side by side in their order, the lower row is first.
        side_by_side = lambda x: jax.lax.all_gather(x, axes, axis=1, tiled=True)  # noqa: E731
        return jax.tree.map(side_by_side, found)

    found = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(axes), P(), P()),
        out_specs=P(),
        check_vma=False,  # it cannot see that what all_gather gives is the same everywhere
    )(queries, pool, first, real)
    return _best((cosine, index), found, k)


def _largest(new, real, k):
    """The k largest of each query in [tiles, q, ROWS], rows from ``real`` on left out: value, row.

    They lie in the k groups of neighbouring rows whose maxima are largest: ``top_k``, the slow part
    on a CPU, sees those maxima and the members of those groups, instead of all rows.
    """
    tiles, q, rows = new.shape
    size = 1 << int(math.log2(max(tiles * rows / k, 1)) / 2)  # about as many groups as members
    grouped = new.reshape(tiles, q, rows // size, size)
    row = jnp.arange(tiles * rows).reshape(tiles, 1, rows // size, size)
    maxima = jnp.where(row < real, grouped, -jnp.inf).max(axis=-1)  # filling is never found
    maxima = maxima.swapaxes(0, 1).reshape(q, -1)  # [q, groups]
    # Ascending, so that of equal values the lower row is first.
    group = jnp.sort(jax.lax.top_k(maxima, k)[1], axis=1)  # [q, k]
    tile, place = jnp.divmod(group, rows // size)
    value = grouped[tile, jnp.arange(q)[:, None], place].reshape(q, -1)  # [q, k * size]
    row = (group[..., None] * size + jnp.arange(size)).reshape(q, -1)
    value, place = jax.lax.top_k(jnp.where(row < real, value, -jnp.inf), k)
    return value, jnp.take_along_axis(row, place, axis=1)


def _best(left, right, k):
    """The k largest of two (value, row) [q, *]; ``top_k`` keeps the first among equals."""
    value = jnp.concatenate([left[0], right[0]], axis=1)
    row = jnp.concatenate([left[1], right[1]], axis=1)
    value, place = jax.lax.top_k(value, k)
    return value, jnp.take_along_axis(row, place, axis=1)


def _unit(x):
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
