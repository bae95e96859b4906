import numpy as np
import pytest

from dinov3_jax.curation.hierarchy import Level, hierarchy, nearest_members, without_empty
from dinov3_jax.curation.kmeans import Clusters
from dinov3_jax.curation.sampling import balanced_sample, kl_to_uniform
from tests.curation.meshes import mesh_of, optimized


def long_tail(*, n=60_000, classes=100, D=32, noise=0.12, seed=0):
    """Unit vectors around as many others as there are classes, the classes after Zipf's law."""
    rng = np.random.default_rng(seed)
    p = np.arange(1, classes + 1) ** -1.2
    labels = rng.choice(classes, n, p=p / p.sum())
    x = rng.normal(size=(classes, D))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True))[labels] + noise * rng.normal(size=(n, D))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def test_a_long_tail_becomes_uniform():
    """From 1.4 at random to at most 0.05: three levels, resampled."""
    points, labels = long_tail()
    at_random = np.random.default_rng(0).choice(labels, 4000, replace=False)
    assert kl_to_uniform(at_random, 100) > 1.3
    levels = [Level(1500), Level(400, resamplings=10), Level(120, resamplings=10)]
    with optimized():
        made = hierarchy(points, levels, mesh=mesh_of(1), seed=0, iterations=15)
    sample = balanced_sample([level.assignments for level in made], 4000, seed=0)
    assert len(np.unique(sample)) == 4000
    assert kl_to_uniform(labels[sample], 100) <= 0.05


def test_levels_are_a_tree_over_the_points():
    points, _ = long_tail(n=800, classes=10)
    made = hierarchy(
        points,
        [Level(60), Level(12, resamplings=2), Level(4)],
        mesh=mesh_of(1),
        seed=0,
        iterations=5,
    )
    inputs = points
    for level, most in zip(made, (60, 12, 4)):
        assert len(level.assignments) == len(inputs)
        assert len(np.unique(level.assignments)) == len(level.centroids) <= most
        square = ((inputs[:, None].astype(float) - level.centroids) ** 2).sum(-1)
        np.testing.assert_array_equal(level.assignments, square.argmin(1))
        inputs = level.centroids


def clusters():
    return Clusters(
        centroids=np.arange(8.0).reshape(4, 2),
        assignments=np.array([3, 0, 3, 0, 3, 1], np.int32),
        distances=np.array([2, 1, 1, 1, 3, 9], np.float32),
    )


def test_the_nearest_members_are_kept():
    np.testing.assert_array_equal(nearest_members(clusters(), 1), [1, 2, 5])
    np.testing.assert_array_equal(nearest_members(clusters(), 2), [0, 1, 2, 3, 5])
    np.testing.assert_array_equal(nearest_members(clusters(), 1, least=3), [1, 2, 5])
    np.testing.assert_array_equal(nearest_members(clusters(), 1, least=4), [0, 1, 2, 3, 5])


def test_many_equal_points_are_resampled_too():
    """Most of 20 clusters of 3 distinct points are empty: 3 times 2 members are too few for 20."""
    points = np.repeat(np.eye(3, dtype=np.float32), 40, axis=0)
    (level,) = hierarchy(points, [Level(20, resamplings=2, kept=2)], mesh=mesh_of(1), seed=0)
    np.testing.assert_array_equal(level.centroids[level.assignments], points)
    assert len(level.centroids) == 3


def test_empty_clusters_are_dropped():
    full = without_empty(clusters())
    np.testing.assert_array_equal(full.centroids, [[0, 1], [2, 3], [6, 7]])
    np.testing.assert_array_equal(full.assignments, [2, 0, 2, 0, 2, 1])


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([], "0 levels"),
        ([Level(900)], "level 1 asks for 900 clusters of 800 inputs"),
        ([Level(60), Level(60)], "level 2 asks for 60 clusters of 60 inputs"),
        ([Level(60, resamplings=-1)], "resamplings -1"),
        ([Level(60, resamplings=1, kept=1)], "kept 1"),
    ],
)
def test_errors_say_what_was_wrong(levels, message):
    points, _ = long_tail(n=800, classes=10)
    with pytest.raises(ValueError, match=message):
        hierarchy(points, levels, mesh=mesh_of(1), seed=0)
