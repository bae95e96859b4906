import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.curation import split as module
from dinov3_jax.curation.hierarchy import Level, hierarchy
from dinov3_jax.curation.kmeans import CANDIDATES, Clusters
from dinov3_jax.curation.split import split
from tests.curation.meshes import mesh_of

SIZES = (1, 3, 17, 0, 30, 32, 5, 7, 8, 20, 25)  # filled up to 8 and 32: two programs


def coarse(*, sizes=SIZES, D=8, apart=0.5, seed=0):
    """(points [n, D], clusters of the given sizes), in random order."""
    rng = np.random.default_rng(seed)
    assignments = rng.permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)
    points = rng.normal(size=(len(assignments), D)).astype(np.float32)
    points += apart * assignments[:, None]
    means = np.zeros((len(sizes), D), np.float32)
    return points, Clusters(means, assignments, np.zeros(len(points), np.float32))


def squares(x, c):
    return ((x[:, None] - c) ** 2).sum(-1)


def reference_split(points, assignments, factor, seed, iterations):
    """Cluster by cluster in float64, from the same uniform numbers."""
    key = jax.random.key(np.random.SeedSequence(seed).generate_state(1)[0])
    centroids, labels = [], np.empty(len(points), int)
    for number in np.unique(assignments):
        rows = np.flatnonzero(assignments == number)
        x = points[rows].astype(np.float64)
        f = min(factor, max(8, 1 << (len(x) - 1).bit_length()))  # of the padded size
        u = np.asarray(jax.random.uniform(jax.random.fold_in(key, number), (f, CANDIDATES)))
        start = [int(u[0, 0] * len(x))]
        for draw in u[1:]:
            near = squares(x, x[start]).min(1)
            if near.sum() == 0:  # every distinct point is in
                break
            drawn = np.searchsorted(np.cumsum(near), draw * near.sum(), side="right")
            left = np.minimum(near[:, None], squares(x, x[drawn])).sum(0)
            start.append(drawn[np.argmin(left)])
        c = x[start]
        for _ in range(iterations):
            nearest = squares(x, c).argmin(1)
            full = np.unique(nearest)
            c[full] = [x[nearest == j].mean(0) for j in full]
        nearest = squares(x, c).argmin(1)
        full, inside = np.unique(nearest, return_inverse=True)
        labels[rows] = len(centroids) + inside
        centroids += list(c[full])
    return np.array(centroids), labels


@pytest.mark.parametrize("iterations", [1, 20])
def test_split_equals_numpy_in_float64(iterations):
    points, clusters = coarse()
    got = split(points, clusters, 7, mesh=mesh_of(8), seed=5, iterations=iterations)
    centroids, labels = reference_split(points, clusters.assignments, 7, 5, iterations)
    np.testing.assert_array_equal(got.assignments, labels)
    # Means of some ten float32 rows.
    np.testing.assert_allclose(got.centroids, centroids, atol=1e-5)
    square = ((points.astype(np.float64) - centroids[labels]) ** 2).sum(1)
    # |x|^2 - 2 x.c + |c|^2 in float32, where |x|^2 is up to 300.
    np.testing.assert_allclose(got.distances, square, atol=2e-4)


def test_parts_of_a_cluster_stand_side_by_side():
    """And small clusters fall into their points."""
    points, clusters = coarse()
    got = split(points, clusters, 7, mesh=mesh_of(8), seed=0, iterations=1)
    owner = np.zeros(len(got.centroids), int)
    owner[got.assignments] = clusters.assignments
    assert (np.diff(owner) >= 0).all()
    np.testing.assert_array_equal(owner[got.assignments], clusters.assignments)
    np.testing.assert_array_equal(np.bincount(owner), np.minimum(SIZES, 7))


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_one_and_eight_devices_agree_to_the_bit(dtype, monkeypatch):
    monkeypatch.setattr(module, "POINTS", 32)  # two calls for eight devices, more for one
    monkeypatch.setattr(module, "LARGEST", 64)  # the largest cluster is the whole mesh's
    sizes = (*range(9, 17), 90, *range(9, 17), 12)
    points, clusters = coarse(sizes=sizes)
    points = points.astype(dtype)
    one = split(points, clusters, 4, mesh=mesh_of(1), seed=0, iterations=4)
    eight = split(points, clusters, 4, mesh=mesh_of(8), seed=0, iterations=4)
    for a, b in zip(one, eight):
        np.testing.assert_array_equal(a, b)
    owner = np.zeros(len(one.centroids), int)
    owner[one.assignments] = clusters.assignments
    np.testing.assert_array_equal(np.bincount(owner), np.full(18, 4))


def test_a_cluster_depends_on_its_points_and_number_alone(monkeypatch):
    """Neither on its neighbours in a call nor on the size of calls."""
    points, clusters = coarse()
    whole = split(points, clusters, 7, mesh=mesh_of(8), seed=0, iterations=4)
    chosen = np.flatnonzero(np.isin(clusters.assignments, (4, 9)))
    alone = clusters._replace(assignments=clusters.assignments[chosen])
    monkeypatch.setattr(module, "POINTS", 32)
    got = split(points[chosen], alone, 7, mesh=mesh_of(8), seed=0, iterations=4)
    np.testing.assert_allclose(
        got.centroids[got.assignments],
        whole.centroids[whole.assignments[chosen]],
        rtol=1e-6,  # sums in another order
    )


def test_points_stream_from_disk(tmp_path):
    points, clusters = coarse()
    np.save(tmp_path / "points.npy", points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    a, b = (split(x, clusters, 7, mesh=mesh_of(8), seed=0, iterations=3) for x in (points, mapped))
    np.testing.assert_array_equal(a.centroids, b.centroids)


def test_equal_points_stay_together():
    points = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    clusters = Clusters(np.zeros((1, 3)), np.zeros(12, np.int32), np.zeros(12, np.float32))
    got = split(points, clusters, 5, mesh=mesh_of(8), seed=0)
    np.testing.assert_array_equal(np.unique(got.centroids, axis=0), np.eye(3)[::-1])
    assert len(got.centroids) == 3
    assert got.distances.max() == 0


def test_a_split_level_is_the_first_of_a_hierarchy():
    points, _ = coarse(sizes=(100,) * 6, apart=10)
    lowest, top = hierarchy(
        points, [Level(6, split=5), Level(6)], mesh=mesh_of(1), seed=0, iterations=8
    )
    assert lowest.centroids.shape == (30, 8)
    assert top.assignments.shape == (30,)
    # The six groups are far apart: level 2 finds them again.
    groups = top.assignments[lowest.assignments]
    assert len(np.unique(groups)) == 6


def test_errors_say_what_was_wrong():
    points, clusters = coarse()
    with pytest.raises(ValueError, match="factor is 1"):
        split(points, clusters, 1, mesh=mesh_of(1), seed=0)
    with pytest.raises(ValueError, match="iterations 0"):
        split(points, clusters, 2, mesh=mesh_of(1), seed=0, iterations=0)
    with pytest.raises(ValueError, match="have 148 points, but 147"):
        split(points[1:], clusters, 2, mesh=mesh_of(1), seed=0)
    points[17, 3] = np.inf
    with pytest.raises(ValueError, match="row 17 is not finite"):
        split(points, clusters, 2, mesh=mesh_of(1), seed=0)
    with pytest.raises(ValueError, match="split 0"):
        hierarchy(points, [Level(6, split=0)], mesh=mesh_of(1), seed=0)
    with pytest.raises(ValueError, match="asks for 148 clusters of 148 inputs"):
        hierarchy(points, [Level(37, split=4)], mesh=mesh_of(1), seed=0)
