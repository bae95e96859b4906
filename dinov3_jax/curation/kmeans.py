"""k-means on a mesh: centroids sharded over all devices, points streamed past them.

Every device holds k / devices centroids and sees every point; it finds the nearest of its own, the
devices compare, and the owner of the winner adds the point to its sum. Points are added in their
order, so that sums, like assignments, are the same on any number of devices.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dinov3_jax.curation.stream import ROWS, check_points, chunks, replicated, tile

CANDIDATES = 8  # drawn for each one kept
MOVED = 256  # empty clusters moved in one call: bounds the shapes to compile


class Clusters(NamedTuple):
    centroids: np.ndarray  # [k, D] float32
    assignments: np.ndarray  # [n] int32, the nearest centroid, the lower index on a tie
    distances: np.ndarray  # [n] float32, squared distance to it


def kmeans(
    points, k: int, *, mesh: Mesh, seed: int, iterations: int = 50, rounds: int = 20
) -> Clusters:
    """Lloyd's algorithm from ``initial_centroids``: minimises ``sum_i |x_i - c_a(i)|^2``.

    An iteration assigns every point and moves every centroid to the mean of its points. An empty
    cluster moves onto the point farthest from its centroid (the second onto the second farthest,
    ...). It stops when no assignment changes. Clusters are empty at the end only where the points
    have (nearly) fewer than k distinct rows.

    Args:
      points: [n, D] float, array or ``np.memmap``; see ``stream.chunks``. bfloat16 points make
        bfloat16 matrix products with float32 sums, others float32 ones.
      k: clusters, 1 to n.
      mesh: all its devices share the centroids, whatever the names of its axes.
      seed: the same seed gives the same clusters on any number of devices of one kind.
      iterations: at most, at least 1.
      rounds: of ``initial_centroids``.

    Raises:
      ValueError: k below 1 or above n, no points, rows that are not finite.
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}, wanted at least 1")
    start = initial_centroids(points, k, mesh=mesh, seed=seed, rounds=rounds)
    centroids = place_centroids(start, mesh)
    before = None
    for _ in range(iterations):
        moved, assignments, distances = lloyd_iteration(points, centroids, k, mesh=mesh)
        if before is not None and np.array_equal(assignments, before):
            break
        centroids, before = moved, assignments
    else:
        assignments, distances, *_ = _pass(points, centroids, k, mesh, update=False)
    return Clusters(replicated(centroids, mesh)[:k], assignments, distances)


def lloyd_iteration(
    points, centroids: jax.Array, k: int, *, mesh: Mesh
) -> tuple[jax.Array, np.ndarray, np.ndarray]:
    """(moved centroids, assignments to the ones given [n], squared distances [n]), as ``kmeans``.

    Centroids are [K, D] as ``place_centroids`` makes them, k of them real.
    """
    assignments, distances, sums, counts = _pass(points, centroids, k, mesh, update=True)
    moved = _means(sums, counts, centroids)
    moved = _fill_empty(points, moved, assignments, distances, k, mesh)
    return moved, assignments, distances


def assign(points, centroids: np.ndarray, *, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """(nearest centroid [n] int32, squared distance [n] float32) of points [n, D].

    The lower index on a tie. Distances are ``|x|^2 - 2 x.c + |c|^2`` in float32, clipped at 0: good
    to about 1e-6 of ``|x|^2``. Arguments and errors as ``kmeans``.
    """
    check_points("points", points)
    check_points("centroids", centroids)
    if points.shape[1] != centroids.shape[1]:
        raise ValueError(
            f"points have width D = {points.shape[1]}, centroids have {centroids.shape[1]}; "
            "take both from the same model"
        )
    placed = place_centroids(np.asarray(centroids, np.float32), mesh)
    assignments, distances, *_ = _pass(points, placed, len(centroids), mesh, update=False)
    return assignments, distances


def initial_centroids(points, k: int, *, mesh: Mesh, seed: int, rounds: int = 20) -> np.ndarray:
    """[k, D] float32 distinct rows of ``points``, far from each other: batched greedy D^2 sampling.

    The first is drawn uniformly. Each of ``rounds`` rounds adds b = (k - 1) / rounds: it draws
    ``CANDIDATES`` b points at once without replacement, with probability in proportion to the
    squared distance d_i to the nearest one of earlier rounds, gives each point to its nearest
    candidate and keeps the b candidates of largest gain ``sum_i max(d_i - |x_i - c|^2, 0)`` over
    the points given to them. k-means++ does so one at a time, k-means|| draws batches and thins
    them out at the end. All rounds together cost ``CANDIDATES + 1`` Lloyd iterations.
    """
    check_points("points", points)
    n = len(points)
    if not 1 <= k <= n:
        raise ValueError(
            f"k is {k}, but there are {n} points; wanted 1 to {n} clusters: lower k or add points"
        )
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}, wanted at least 1")
    rng = np.random.default_rng(seed)
    batch = rng.integers(n, size=1)
    chosen, nearest = [batch], np.full(n, np.inf)
    taken = np.zeros(n, bool)
    for part in np.array_split(np.arange(k - 1), min(rounds, k - 1)) if k > 1 else []:
        nearest = np.minimum(nearest, assign(points, _rows(points, batch), mesh=mesh)[1])
        taken[batch] = True
        # The smallest of Exp(1) / weight: a draw without replacement. Weight 0 comes last.
        keys = rng.exponential(size=n) / np.maximum(nearest, 1e-300)
        keys[taken] = np.inf
        count = min(CANDIDATES * len(part), n - int(taken.sum()))
        drawn = np.sort(np.argpartition(keys, count - 1)[:count])
        given, distances = assign(points, _rows(points, drawn), mesh=mesh)
        gain = np.bincount(given, np.maximum(nearest - distances, 0), count)
        batch = np.sort(drawn[np.argsort(-gain, kind="stable")[: len(part)]])
        chosen.append(batch)
    return _rows(points, np.concatenate(chosen))


def place_centroids(centroids: np.ndarray, mesh: Mesh) -> jax.Array:
    """[k, D] -> [K, D] sharded over ``mesh``, K filled up with zeros to whole tiles a device."""
    k, D = centroids.shape
    K = padded(k, mesh)

    def part(index):
        start, stop, _ = index[0].indices(K)
        rows = centroids[start:stop]
        return np.pad(rows, ((0, stop - start - len(rows)), (0, 0)))

    return jax.make_array_from_callback((K, D), NamedSharding(mesh, P(mesh.axis_names)), part)


def padded(k: int, mesh) -> int:
    """k filled up to whole tiles on every device."""
    each = tile(k) * mesh.size
    return -(-k // each) * each


@functools.partial(jax.jit, static_argnames=("mesh", "width"), donate_argnames=("sums", "counts"))
def assignment_step(points, real, centroids, k, sums, counts, *, mesh, width):
    """One chunk against all centroids: the program in which k-means spends its time.

    Args:
      points: [m, D] float32 or bfloat16, sharded on rows; m a multiple of ``ROWS``.
      real: int32, rows that count; the others are filling.
      centroids: [K, D] float32, sharded on rows; the first ``k`` (int32) count.
      sums, counts: [K, D] float32, [K] int32, sharded alike; or None, None: no update.
      width: columns of a tile; divides K / devices.

    Returns:
      (index [m] int32, squared distance [m] float32, new sums, new counts); the first two are
      replicated.
    """
    axes = mesh.axis_names

    def local(points, real, centroids, k, sums, counts):
        first = jax.lax.axis_index(axes) * len(centroids)
        points = jax.lax.all_gather(points, axes, tiled=True)  # [m, D]
        index = first + jnp.arange(len(centroids))
        narrow = centroids.astype(points.dtype)
        half = jnp.where(index < k, half_squares(narrow), jnp.inf)  # filling never wins
        tiles = (
            narrow.reshape(-1, width, centroids.shape[1]),
            half.reshape(-1, width, 1),
            index.reshape(-1, width, 1),
        )
        rows = points.reshape(-1, ROWS, points.shape[1])
        score, index = jax.lax.map(lambda x: _nearest(x, tiles), rows)  # [m / ROWS, ROWS]
        # The devices hold ascending indices: the first best score has the lowest of them.
        scores = jax.lax.all_gather(score.reshape(-1), axes)  # [devices, m]
        indices = jax.lax.all_gather(index.reshape(-1), axes)
        winner = jnp.argmin(scores, axis=0)[None]
        score = jnp.take_along_axis(scores, winner, 0)[0]
        index = jnp.take_along_axis(indices, winner, 0)[0]
        wide = points.astype(jnp.float32)
        distance = jnp.maximum(jnp.sum(wide * wide, -1) + 2 * score, 0)
        if sums is not None:
            mine = (index >= first) & (index < first + len(centroids))
            mine &= jnp.arange(len(points)) < real
            row = jnp.where(mine, index - first, len(centroids))  # out of range: dropped
            sums = sums.at[row].add(wide, mode="drop")
            counts = counts.at[row].add(1, mode="drop")
        return index, distance, sums, counts

    sharded, whole = P(axes), P()
    total = None if sums is None else sharded
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(sharded, whole, sharded, whole, total, total),
        out_specs=(whole, whole, total, total),
        check_vma=False,  # it cannot see that what all_gather gives is the same everywhere
    )(points, real, centroids, k, sums, counts)


def _nearest(x, tiles):
    """Smallest ``|c|^2 / 2 - x.c`` and its index, for a row tile [ROWS, D] -> [ROWS], [ROWS]."""

    def compare(best, tile):
        centroids, half, index = tile
        score, index = closest(centroids, half, index, x)
        # Strictly less: on a tie the earlier tile has the lower index.
        better = score < best[0]
        return (jnp.where(better, score, best[0]), jnp.where(better, index, best[1])), None

    nothing = (jnp.full(ROWS, jnp.inf), jnp.zeros(ROWS, jnp.int32))
    return jax.lax.scan(compare, nothing, tiles)[0]


def closest(centroids, half, index, x):
    """(score [m], index [m]) of the smallest ``half - c.x``, the lowest such index, for x [m, D].

    ``centroids`` [w, D] of the dtype of x, ``half`` [w, 1] float32, ``index`` [w, 1] int32.
    """
    # "highest": TPUs and recent GPUs would round float32 inputs, and near ties change sides.
    product = jnp.matmul(centroids, x.T, precision="highest", preferred_element_type=jnp.float32)
    scores = half - product  # [w, m]
    # Two plain reductions over the leading axis vectorise; an argmin does not.
    score = scores.min(0)
    return score, jnp.where(scores == score, index, jnp.iinfo(jnp.int32).max).min(0)


def half_squares(centroids):
    """``|c|^2 / 2`` [w] float32 of centroids [w, D]."""
    wide = centroids.astype(jnp.float32)
    return 0.5 * jnp.sum(wide * wide, -1)


def _pass(points, centroids, k, mesh, *, update):
    """All points against all centroids: (assignments, distances, sums, counts)."""
    n = len(points)
    assignments, distances = np.empty(n, np.int32), np.empty(n, np.float32)
    sums = counts = None
    if update:
        sharding = NamedSharding(mesh, P(mesh.axis_names))
        sums = jnp.zeros(centroids.shape, jnp.float32, device=sharding)
        counts = jnp.zeros(len(centroids), jnp.int32, device=sharding)
    width = tile(k)
    pending = None

    def fetch(first, real, index, distance):
        assignments[first : first + real] = np.asarray(index)[:real]
        distances[first : first + real] = np.asarray(distance)[:real]

    for first, real, chunk in chunks("points", points, mesh):
        index, distance, sums, counts = assignment_step(
            chunk, real, centroids, k, sums, counts, mesh=mesh, width=width
        )
        if pending is not None:  # fetched while the next chunk is at work
            fetch(*pending)
        pending = (first, real, index, distance)
    assert pending is not None  # there is at least one point
    fetch(*pending)
    return assignments, distances, sums, counts


@jax.jit
def _means(sums, counts, centroids):
    """Empty clusters keep their centroid."""
    full = counts[:, None] > 0
    return jnp.where(full, sums / jnp.maximum(counts, 1)[:, None], centroids)


@functools.partial(jax.jit, donate_argnames="centroids")
def _move(centroids, which, rows):
    return centroids.at[which].set(rows, mode="drop")


def _fill_empty(points, centroids, assignments, distances, k, mesh):
    empty = np.flatnonzero(np.bincount(assignments, minlength=k) == 0)
    if len(empty) == 0:
        return centroids
    far = np.argsort(-distances, kind="stable")[: len(empty)]
    far = far[distances[far] > 0]  # on its centroid already: nothing to gain
    for start in range(0, len(far), MOVED):
        some = far[start : start + MOVED]
        which = np.full(MOVED, len(centroids))  # out of range: dropped
        which[: len(some)] = empty[start : start + len(some)]
        rows = np.zeros((MOVED, centroids.shape[1]), np.float32)
        rows[: len(some)] = _rows(points, some)
        centroids = _move(centroids, which, rows)
    return centroids


def _rows(points, index):
    return np.asarray(points[index], np.float32)
