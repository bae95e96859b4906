import numpy as np
import pytest

from dinov3_jax.curation.dedup import duplicates, seen_in_evaluation
from tests.curation.meshes import mesh_of


def families(*, groups=150, D=128, noise=0.4, seed=0):
    """Groups of 1 to 6 images around unit vectors: cosines to the others of a group 0.3 to 0.95."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rng.integers(1, 7, groups))
    centres = rng.normal(size=(groups, D))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    spread = noise * rng.uniform(0.2, 1.5, len(group))[:, None]
    points = centres[group] + spread * rng.normal(size=(len(group), D)) / np.sqrt(D) * 2
    return rng.permutation(points.astype(np.float32))


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def reference_duplicates(points, threshold, neighbours):
    """Brute force: all pairs, then the lowest name spreads along edges until none changes."""
    cosine = unit(points) @ unit(points).T
    np.fill_diagonal(cosine, -2)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :neighbours]
    edge = np.zeros(cosine.shape, bool)
    np.put_along_axis(edge, order, np.take_along_axis(cosine, order, 1) > threshold, 1)
    edge |= edge.T
    np.fill_diagonal(edge, True)
    name = np.arange(len(points))
    while True:
        lower = np.where(edge, name, len(points)).min(axis=1)
        if (lower == name).all():
            return name
        name = lower


@pytest.mark.parametrize(("threshold", "neighbours"), [(0.6, 64), (0.45, 64), (0.6, 1)])
def test_agrees_with_brute_force(threshold, neighbours):
    points = families()
    got = duplicates(points, mesh=mesh_of(8), threshold=threshold, neighbours=neighbours)
    expected = reference_duplicates(points, threshold, neighbours)
    np.testing.assert_array_equal(got, expected)
    assert len(points) / 5 < len(np.unique(got)) < len(points) * 0.9  # there is something to find


def test_copies_are_one_image_and_the_first_stays():
    rng = np.random.default_rng(0)
    distinct = np.eye(20, dtype=np.float32)
    copies = rng.integers(0, 20, 200)
    points = np.concatenate([distinct, distinct[copies] * 3])
    group = duplicates(points, mesh=mesh_of(1))
    np.testing.assert_array_equal(np.unique(group), np.arange(20))
    np.testing.assert_array_equal(group[20:], copies)


def test_a_chain_is_one_group():
    """Neighbours 30 degrees apart (cosine 0.87), ends 90 (0): joined by what lies between."""
    angles = np.radians([0, 30, 60, 90])
    points = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    np.testing.assert_array_equal(duplicates(points, mesh=mesh_of(1)), [0, 0, 0, 0])
    np.testing.assert_array_equal(duplicates(points, mesh=mesh_of(1), threshold=0.9), [0, 1, 2, 3])


def test_the_whole_group_of_a_touched_image_goes():
    points = families()
    rng = np.random.default_rng(1)
    evaluation = points[::50] + 0.05 * rng.normal(size=points[::50].shape)
    got = seen_in_evaluation(points, evaluation, mesh=mesh_of(8))
    group = reference_duplicates(points, 0.45, 64)
    touched = (unit(points) @ unit(evaluation).T).max(axis=1) > 0.45
    np.testing.assert_array_equal(got, np.isin(group, group[touched]))
    assert touched.sum() < got.sum() < len(points)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.5}, "threshold is 1.5, wanted a cosine from -1 to 1"),
        ({"neighbours": 0}, "neighbours is 0, wanted at least 1"),
    ],
)
def test_errors_say_what_was_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        duplicates(families(), mesh=mesh_of(1), **change)
