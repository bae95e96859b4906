"""Splitting clusters: k-means within each cluster, for numbers that one k-means cannot reach.

k coarse clusters, each split in f, are k f clusters for 2 n (k + f) D FLOP an iteration instead of
2 n k f D. Clusters do not know of each other: a device takes several of like size at once, and one
compiled program serves all of that size.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dinov3_jax.curation.kmeans import CANDIDATES, Clusters, closest, half_squares, kmeans
from dinov3_jax.curation.stream import check_points, dtype_of, read, replicated

POINTS = 1 << 14  # that a device takes in a call, filling included: many clusters, or one larger
LARGEST = 1 << 18  # points of a cluster that one device takes
SMALLEST = 8  # points that the smallest clusters are filled up to


def split(
    points, clusters: Clusters, factor: int, *, mesh: Mesh, seed: int, iterations: int = 50
) -> Clusters:
    """Each cluster made up to ``factor`` by k-means of its members alone, from greedy k-means++.

    A start adds one member at a time: of ``CANDIDATES`` drawn in proportion to their squared
    distance to the start so far, the one that leaves the smallest sum of squared distances. Lloyd's
    iterations end when no assignment changes. Sub-clusters without a member are dropped; a cluster
    of at most ``factor`` members is split into its distinct members. Clusters of more than
    ``LARGEST`` points are few, and split by ``kmeans`` on the whole mesh, one after the other.

    Args:
      points: [n, D] float, array or ``np.memmap``, as ``kmeans``. Each row is read once; the rows
        of one call in ascending order, whatever their clusters.
      clusters: of these points; only their assignments count.
      factor: sub-clusters a cluster, at least 2.
      mesh: its devices share out the clusters, whatever the names of its axes.
      seed: the same seed gives the same result on any number of devices of one kind.
      iterations: at most, at least 1.

    Returns:
      At most k * factor clusters; those of one cluster side by side, clusters in their order.
      ``assignments`` are the nearest centroid within a point's old cluster, not of all.

    Raises:
      ValueError: factor below 2, iterations below 1, clusters of other points, rows that are not
        finite.
    """
    check_points("points", points)
    if factor < 2 or iterations < 1:
        raise ValueError(
            f"factor is {factor}, iterations {iterations}; wanted at least 2 sub-clusters a "
            "cluster and at least 1 iteration"
        )
    if len(clusters.assignments) != len(points):
        raise ValueError(
            f"the clusters have {len(clusters.assignments)} points, but {len(points)} are given; "
            "give the points that were clustered"
        )
    groups = _Groups(clusters.assignments)
    inside = np.empty(len(points), np.int32)  # sub-cluster within the cluster
    distances = np.empty(len(points), np.float32)
    cells, centroids = [], []  # cluster * factor + sub-cluster of those with a member, and where

    def keep(numbers, rows, nearest, distance, moved):
        inside[rows], distances[rows] = nearest, distance
        found = np.unique(clusters.assignments[rows] * np.int64(factor) + nearest)
        cells.append(found)
        centroids.append(moved[np.searchsorted(numbers, found // factor), found % factor])

    for number in np.flatnonzero(groups.sizes > LARGEST).tolist():
        rows = groups.rows([number])[0]
        own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        some = read("points", points, rows)
        made = kmeans(some, factor, mesh=mesh, seed=own, iterations=iterations)
        keep([number], rows, made.assignments, made.distances, made.centroids[None])
    key = np.random.SeedSequence(seed).generate_state(1)[0]  # 32 bits, whatever the seed has
    pending = None
    for numbers, filled, each in _batches(groups.sizes, mesh.size):
        result = split_step(
            *_place(points, groups, numbers, filled, each * mesh.size, mesh),
            key,
            iterations,
            mesh=mesh,
            factor=min(factor, filled),
        )
        if pending is not None:  # fetched while the next call is at work
            keep(*_fetch(groups, *pending, mesh))
        pending = (numbers, filled, result)
    if pending is not None:
        keep(*_fetch(groups, *pending, mesh))
    cells, centroids = np.concatenate(cells), np.concatenate(centroids)
    order = np.argsort(cells)
    cell = clusters.assignments * np.int64(factor) + inside
    assignments = np.searchsorted(cells[order], cell).astype(np.int32)
    return Clusters(centroids[order], assignments, distances)


class _Groups:
    """The points of each cluster, as rows sorted by cluster."""

    def __init__(self, assignments):
        self.sizes = np.bincount(assignments)
        self._members = np.argsort(assignments, kind="stable")
        self._ends = np.cumsum(self.sizes)

    def rows(self, numbers):
        """(rows of clusters ``numbers`` one after the other, place of each within its cluster)."""
        sizes = self.sizes[numbers]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        first = np.repeat(self._ends[numbers] - sizes, sizes)
        return self._members[first + within], within


def _batches(sizes, devices):
    """(cluster numbers, points each is filled up to, clusters a device) of each call.

    Powers of two: there are few programs, and under half of the work is filling. What a device does
    in a call does not depend on how many there are.
    """
    numbers = np.flatnonzero((sizes > 0) & (sizes <= LARGEST))
    filled = np.maximum(SMALLEST, 2 ** np.ceil(np.log2(sizes[numbers])).astype(int))
    for size in np.unique(filled).tolist():
        some = numbers[filled == size]
        each = min(max(POINTS // size, 1), len(some))
        for start in range(0, len(some), each * devices):
            yield some[start : start + each * devices], size, each


def _place(points, groups, numbers, filled, count, mesh):
    """(points [count, filled, D], sizes [count], numbers [count]) sharded over ``mesh``.

    Each process reads the clusters of its own devices.
    """
    sharding = NamedSharding(mesh, P(mesh.axis_names))
    D, dtype = points.shape[1], dtype_of(points)

    def load(index):
        start, stop, _ = index[0].indices(count)
        some = numbers[start:stop]
        rows, within = groups.rows(some)
        place = np.repeat(np.arange(len(some)), groups.sizes[some]) * filled + within
        order = np.argsort(rows)  # disks like to be read forwards
        out = np.zeros(((stop - start) * filled, D), dtype)
        out[place[order]] = read("points", points, rows[order])
        return out.reshape(-1, filled, D)

    about = np.zeros((2, count), np.int32)  # a cluster of no points is filling
    about[:, : len(numbers)] = groups.sizes[numbers], numbers
    array = jax.make_array_from_callback((count, filled, D), sharding, load)
    return array, *(
        jax.make_array_from_callback((count,), sharding, lambda i, x=x: x[i]) for x in about
    )


def _fetch(groups, numbers, filled, result, mesh):
    """What ``keep`` wants of one call."""
    assignments, distances, centroids = (replicated(x, mesh) for x in result)
    rows, within = groups.rows(numbers)
    cluster = np.repeat(np.arange(len(numbers)), groups.sizes[numbers])
    return numbers, rows, assignments[cluster, within], distances[cluster, within], centroids


@functools.partial(jax.jit, static_argnames=("mesh", "factor"))
def split_step(points, sizes, numbers, seed, iterations, *, mesh, factor):
    """k-means of c clusters at once, each of S points, the first ``sizes`` of which count.

    Args:
      points: [c, S, D] float32 or bfloat16; like ``sizes`` and ``numbers`` sharded on c.
      sizes: [c] int32, 0 for filling.
      numbers: [c] int32: (seed, number) decides the draws of a cluster.
      seed: uint32.
      iterations: int32, at most.
      factor: f, sub-clusters.

    Returns:
      (assignments [c, S] int32, squared distances [c, S] float32, centroids [c, f, D] float32),
      sharded on c; only the first ``sizes`` of S mean anything.
    """

    def one(points, size, number, seed, iterations):
        key = jax.random.fold_in(jax.random.key(seed), number)
        start = _start(points, size, jax.random.uniform(key, (factor, CANDIDATES)))
        return _lloyd(points, size, start, iterations)

    each = P(mesh.axis_names)
    return jax.shard_map(
        jax.vmap(one, in_axes=(0, 0, 0, None, None)),
        mesh=mesh,
        in_specs=(each, each, each, P(), P()),
        out_specs=each,
        check_vma=False,  # loops would have to say that what they carry varies over the mesh
    )(points, sizes, numbers, seed, iterations)


def _start(x, size, uniform):
    """[f, D] float32 of x [S, D]: greedy k-means++ with ``uniform`` [f, candidates] in [0, 1)."""
    real = jnp.arange(len(x)) < size
    wide = x.astype(jnp.float32)
    half = 0.5 * jnp.sum(wide * wide, -1)  # [S]

    def squares(rows):  # [c] -> [c, S]
        product = jnp.matmul(x[rows], x.T, precision="highest", preferred_element_type=jnp.float32)
        return jnp.where(real, jnp.maximum(2 * (half + half[rows, None] - product), 0), 0)

    def add(nearest, uniform):
        # The first row at which the running sum exceeds the draw; the last one if all are 0.
        total = jnp.cumsum(nearest)
        drawn = jnp.sum(total <= uniform[:, None] * total[-1], -1)
        drawn = jnp.clip(drawn, 0, jnp.maximum(size - 1, 0))
        left = jnp.minimum(nearest, squares(drawn))  # [candidates, S]
        best = jnp.argmin(left.sum(-1))
        return left[best], drawn[best]

    first = jnp.clip((uniform[0, 0] * size).astype(jnp.int32), 0, jnp.maximum(size - 1, 0))
    _, others = jax.lax.scan(add, squares(first[None])[0], uniform[1:])
    return wide[jnp.concatenate([first[None], others])]


def _lloyd(x, size, centroids, iterations):
    """(assignments [S], squared distances [S], centroids [f, D]) once nothing changes."""
    real = jnp.arange(len(x)) < size
    label = jnp.arange(len(centroids))[:, None]

    def nearest(centroids):
        narrow = centroids.astype(x.dtype)
        return closest(narrow, half_squares(narrow)[:, None], label, x)

    def going(state):
        return state[1] & (state[0] < iterations)

    def move(state):
        done, _, assignments, _, centroids = state
        member = (label == assignments) & real  # [f, S]
        # A product: accelerators are slow at adding rows one by one. Its inputs 0 and 1 are exact.
        sums = jnp.matmul(
            member.astype(x.dtype), x, precision="highest", preferred_element_type=jnp.float32
        )
        count = member.sum(-1)[:, None]
        centroids = jnp.where(count > 0, sums / jnp.maximum(count, 1), centroids)
        score, after = nearest(centroids)
        changed = jnp.any((after != assignments) & real)
        return done + 1, changed, after, score, centroids

    score, assignments = nearest(centroids)
    state = (jnp.int32(0), size > 0, assignments, score, centroids)
    _, _, assignments, score, centroids = jax.lax.while_loop(going, move, state)
    wide = x.astype(jnp.float32)
    return assignments, jnp.maximum(jnp.sum(wide * wide, -1) + 2 * score, 0), centroids
