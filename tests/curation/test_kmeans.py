import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.curation.kmeans import assign, initial_centroids, kmeans
from tests.curation.meshes import mesh_of


def blobs(*, n=3000, D=16, centres=40, noise=0.2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(centres, D))[rng.integers(0, centres, n)] + noise * rng.normal(size=(n, D))
    return x.astype(np.float32)


def reference_assign(points, centroids):
    x, c = np.asarray(points, np.float64), np.asarray(centroids, np.float64)
    square = (x**2).sum(1)[:, None] - 2 * x @ c.T + (c**2).sum(1)
    return square.argmin(1), square.min(1)


def reference_kmeans(points, centroids, iterations):
    """Lloyd in float64; no cluster of the data here is ever empty."""
    for _ in range(iterations):
        assignments, _ = reference_assign(points, centroids)
        sums = np.zeros(centroids.shape)
        np.add.at(sums, assignments, points)
        counts = np.bincount(assignments, minlength=len(centroids))
        assert counts.all()
        centroids = sums / counts[:, None]
    return centroids, *reference_assign(points, centroids)


@pytest.mark.parametrize("k", [1, 50, 300])
def test_assignments_equal_numpy_in_float64(k):
    points = blobs()
    centroids = blobs(n=k, seed=1)
    got, distances = assign(points, centroids, mesh=mesh_of(8))
    expected, square = reference_assign(points, centroids)
    np.testing.assert_array_equal(got, expected)
    # float32 sums of 16 squares of about 1 against float64.
    np.testing.assert_allclose(distances, square, atol=1e-4)


def test_lloyd_equals_numpy_in_float64():
    points = blobs()
    start = initial_centroids(points, 60, mesh=mesh_of(8), seed=3)
    got = kmeans(points, 60, mesh=mesh_of(8), seed=3, iterations=5)
    centroids, assignments, square = reference_kmeans(points, start, 5)
    np.testing.assert_array_equal(got.assignments, assignments)
    # Means of some 50 float32 rows.
    np.testing.assert_allclose(got.centroids, centroids, atol=1e-5)
    np.testing.assert_allclose(got.distances, square, atol=1e-4)


@pytest.mark.parametrize("k", [3, 300])  # fewer clusters than devices; tiles on two of them
def test_one_and_eight_devices_agree_to_the_bit(k):
    points = blobs(n=17_001)  # more than one chunk, the last one filled up
    one = kmeans(points, k, mesh=mesh_of(1), seed=0, rounds=3, iterations=3)
    eight = kmeans(points, k, mesh=mesh_of(8), seed=0, rounds=3, iterations=3)
    for a, b in zip(one, eight):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("devices", [1, 8])
def test_ties_go_to_the_lower_index(devices):
    """The same centroid twice, in one tile and on two devices."""
    points = blobs(n=700)
    centroids = blobs(n=300, seed=1)
    twice = np.concatenate([centroids, centroids])
    got, _ = assign(points, twice, mesh=mesh_of(devices))
    np.testing.assert_array_equal(got, reference_assign(points, centroids)[0])
    near = np.repeat(centroids, 2, axis=0)
    got, _ = assign(points, near, mesh=mesh_of(devices))
    assert (got % 2 == 0).all()


def test_points_stream_from_disk(tmp_path):
    points = blobs(n=2500)
    np.save(tmp_path / "points.npy", points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    for a, b in zip(
        kmeans(points, 10, mesh=mesh_of(1), seed=0, rounds=3, iterations=3),
        kmeans(mapped, 10, mesh=mesh_of(1), seed=0, rounds=3, iterations=3),
    ):
        np.testing.assert_array_equal(a, b)


def test_bfloat16_points_are_multiplied_in_bfloat16():
    points = blobs().astype(jnp.bfloat16)
    centroids = blobs(n=20, seed=1)
    got, _ = assign(points, centroids, mesh=mesh_of(8))
    rounded = centroids.astype(jnp.bfloat16)
    expected, _ = reference_assign(points, rounded)
    np.testing.assert_array_equal(got, expected)


def test_empty_clusters_move_to_the_farthest_points():
    """k = n: only moves bring every point its own cluster, whatever the start."""
    points = blobs(n=64, noise=1.0)
    got = kmeans(points, 64, mesh=mesh_of(1), seed=0, rounds=1, iterations=5)
    assert len(np.unique(got.assignments)) == 64
    # A far group that a start inside the near one would leave without a centroid of its own.
    repeated = np.concatenate([np.zeros((500, 4)), np.eye(4) * 100]).astype(np.float32)
    got = kmeans(repeated, 5, mesh=mesh_of(1), seed=0, rounds=1, iterations=10)
    assert len(np.unique(got.assignments)) == 5
    assert got.distances.max() == 0


def test_fewer_distinct_points_than_clusters_leave_clusters_empty():
    points = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    got = kmeans(points, 7, mesh=mesh_of(1), seed=0)
    assert got.centroids.shape == (7, 3)
    assert len(np.unique(got.assignments)) == 3
    assert np.isfinite(got.centroids).all()


def test_initial_centroids_are_distinct_points_and_reach_small_groups():
    points = np.concatenate([blobs(n=2000, centres=1, noise=0.01), 10 + blobs(n=3, noise=5.0)])
    start = initial_centroids(points, 30, mesh=mesh_of(1), seed=0)
    assert len(np.unique(start, axis=0)) == 30
    rows = {row.tobytes() for row in points}
    assert all(row.tobytes() in rows for row in start)
    for far in points[-3:]:  # 30 uniform draws would miss all three in 96 % of cases
        assert (start == far).all(axis=1).any()


def test_the_seed_decides():
    points = blobs(n=500)
    first = initial_centroids(points, 20, mesh=mesh_of(1), seed=1)
    np.testing.assert_array_equal(first, initial_centroids(points, 20, mesh=mesh_of(1), seed=1))
    assert (first != initial_centroids(points, 20, mesh=mesh_of(1), seed=2)).any()


def with_a_nan(row):
    points = blobs(n=40)
    points[row, 2] = np.nan
    return points


@pytest.mark.parametrize(
    ("points", "change", "message"),
    [
        (blobs(n=4), {"k": 5}, "k is 5, but there are 4 points"),
        (blobs(n=4), {"k": 0}, "k is 0"),
        (np.zeros((0, 16), np.float32), {}, r"shape \(0, 16\)"),
        (np.zeros(16, np.float32), {}, r"shape \(16,\)"),
        (np.zeros((9, 16), np.int32), {}, "int32, wanted floats"),
        (with_a_nan(17), {}, "row 17 is not finite"),
        (blobs(n=40), {"iterations": 0}, "iterations is 0"),
        (blobs(n=40), {"rounds": 0}, "rounds is 0"),
    ],
)
def test_errors_say_what_was_wrong(points, change, message):
    with pytest.raises(ValueError, match=message):
        kmeans(points, **({"k": 2, "mesh": mesh_of(1), "seed": 0} | change))


def test_widths_must_agree():
    with pytest.raises(ValueError, match="D = 16, centroids have 8"):
        assign(blobs(n=4), np.zeros((2, 8), np.float32), mesh=mesh_of(1))
