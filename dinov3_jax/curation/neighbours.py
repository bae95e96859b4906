"""Nearest neighbours by cosine. Exact on a mesh: the pool streams past the queries, sharded."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dinov3_jax.curation.index import nearest_approximate
from dinov3_jax.curation.stream import ROWS, check_search, chunks, read

QUERIES = 16  # row tiles of queries that one reading of the pool serves


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
    whole, each = NamedSharding(mesh, P()), NamedSharding(mesh, P(None, mesh.axis_names))
    block = ROWS * QUERIES
    for start in range(0, len(queries), block):
        rows = np.asarray(read("queries", queries, slice(start, start + block)), np.float32)
        filled = np.pad(rows, ((0, -len(rows) % ROWS), (0, 0)))
        filled = jax.make_array_from_callback(filled.shape, whole, filled.__getitem__)
        shape = (len(filled), mesh.size * k)
        best = jnp.full(shape, -jnp.inf, device=each), jnp.zeros(shape, jnp.int32, device=each)
        for first, real, chunk in chunks("pool", pool, mesh):
            best = _search(filled, chunk, first, real, *best, mesh=mesh)
        if mesh.size > 1:
            best = _merge(*best, mesh=mesh)
        cosine[start : start + len(rows)] = np.asarray(best[0])[: len(rows)]
        index[start : start + len(rows)] = np.asarray(best[1])[: len(rows)]
    return index, cosine


@functools.partial(jax.jit, static_argnames="mesh")
def _search(queries, pool, first, real, cosine, index, *, mesh):
    """Each device's best so far [q, devices * k], and a chunk [m, D] of the pool -> its best.

    Row 0 of the chunk is row ``first`` of the pool; its rows from ``real`` on are filling.
    """
    axes = mesh.axis_names

    def local(queries, pool, first, real, cosine, index):
        k, start = cosine.shape[1], jax.lax.axis_index(axes) * len(pool)
        tiles = _unit(pool).reshape(-1, ROWS, pool.shape[1])

        def search(best):  # of a row tile of queries
            queries, cosine, index = best
            # "highest": TPUs and recent GPUs would round the inputs.
            compare = lambda tile: jnp.matmul(tile, queries.T, precision="highest")  # noqa: E731
            new = jax.lax.map(compare, tiles).reshape(-1, ROWS)  # [m, ROWS], a query a column
            value, row = _candidates(new, real - start, k)
            # top_k keeps the first among equals: what came in an earlier chunk has the lower row.
            cosine, place = jax.lax.top_k(jnp.concatenate([cosine, value], axis=1), k)
            index = jnp.concatenate([index, first + start + row], axis=1)
            return cosine, jnp.take_along_axis(index, place, axis=1)

        return _by_tile(search, _unit(queries), cosine, index)

    each = P(None, axes)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(axes), P(), P(), each, each),
        out_specs=(each, each),
        check_vma=False,  # as in _merge
    )(queries, pool, first, real, cosine, index)


def _candidates(scores, real, k):
    """(value, row) [q, *], rows ascending, with the k largest of each column of ``scores`` [m, q].

    They lie in the k groups of neighbouring rows whose maxima are largest: ``top_k``, the slow
    part, sees those maxima and the members of those groups, instead of all rows. Rows from ``real``
    on are filling and count as -inf.
    """
    m, q = scores.shape
    size = 1 << int(math.log2(max(m / k, 1)) / 2)  # about as many groups as members
    row = jnp.arange(m).reshape(-1, size, 1)
    maxima = jnp.where(row < real, scores.reshape(-1, size, q), -jnp.inf).max(axis=1)  # [groups, q]
    group = jnp.sort(jax.lax.top_k(maxima.T, min(k, len(maxima)))[1], axis=1)
    row = (group[..., None] * size + jnp.arange(size)).reshape(q, -1)
    value = scores[row, jnp.arange(q)[:, None]]
    return jnp.where(row < real, value, -jnp.inf), row


@functools.partial(jax.jit, static_argnames="mesh")
def _merge(cosine, index, *, mesh):
    """Each device's best [q, devices * k] -> the best of all [q, k]."""
    axes = mesh.axis_names

    def local(cosine, index):
        k = cosine.shape[1]

        def merge(mine):  # a row tile at a time: on many devices all would not fit
            found = [jax.lax.all_gather(x, axes, axis=1, tiled=True) for x in mine]
            # A device saw rows from all over the pool, so the row decides among equals.
            minus, row = jax.lax.sort((-found[0], found[1]), num_keys=2)
            return -minus[:, :k], row[:, :k]

        return _by_tile(merge, cosine, index)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=P(None, axes),
        out_specs=P(),
        check_vma=False,  # it cannot see that what all_gather gives is the same everywhere
    )(cosine, index)


def _by_tile(f, *arrays):
    """``f`` of ``ROWS`` rows of all ``arrays`` [q, *] at a time."""
    found = jax.lax.map(f, tuple(x.reshape(-1, ROWS, x.shape[1]) for x in arrays))
    return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), found)


def _unit(x):
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
