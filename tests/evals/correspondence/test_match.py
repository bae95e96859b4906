import numpy as np
import pytest

from dinov3_jax.evals.correspondence.match import affine_inliers, centres, match, spread

RNG = np.random.default_rng(0)
GRID = RNG.normal(size=(4, 5, 8)).astype(np.float32)


def permuted():
    order = RNG.permutation(20)
    return order, GRID.reshape(20, 8)[order].reshape(5, 4, 8)


@pytest.mark.parametrize("mutual", [False, True])
def test_permuted_features_give_the_inverse_permutation(mutual):
    order, other = permuted()
    found = match(GRID, other, mutual=mutual)
    assert len(found.a) == 20
    np.testing.assert_array_equal(order[found.b], found.a)
    np.testing.assert_allclose(found.cosine, 1.0, rtol=1e-6)  # float32
    back = match(other, GRID, mutual=mutual)
    cycle = dict(zip(back.a, back.b))
    assert all(cycle[b] == a for a, b in zip(found.a, found.b))


def test_masks_restrict_both_sides():
    order, other = permuted()
    mask_a, mask_b = RNG.random((4, 5)) < 0.6, RNG.random((5, 4)) < 0.6
    found = match(GRID, other, mutual=True, mask_a=mask_a, mask_b=mask_b)
    exact = found.cosine > 0.999
    both = mask_a.ravel() & mask_b.ravel()[np.argsort(order)]
    np.testing.assert_array_equal(np.sort(found.a[exact]), np.flatnonzero(both))
    assert mask_a.ravel()[found.a].all()
    assert mask_b.ravel()[found.b].all()


def test_mutual_drops_what_is_not_returned():
    a = np.array([[[1.0, 0.0], [1.0, 0.1]]])
    b = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    np.testing.assert_array_equal(match(a, b, mutual=False).b, [0, 0])
    found = match(a, b, mutual=True)
    np.testing.assert_array_equal([found.a, found.b], [[0], [0]])


def test_centres():
    np.testing.assert_array_equal(
        centres(np.array([0, 6]), (2, 5), stride=16.0), [[8, 8], [24, 24]]
    )


def test_spread_keeps_the_lonely_and_thins_the_crowd():
    crowd = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.4, 0.4], [50.0, 0.0]])
    kept = spread(crowd, 2.0)
    assert len(kept) == 2
    assert 4 in kept
    for distance in (0.0, 0.01):
        np.testing.assert_array_equal(spread(crowd, distance), np.arange(5))
    points = RNG.random((60, 2)) * 100
    kept = points[spread(points, 15.0)]
    apart = np.linalg.norm(kept[:, None] - kept[None], axis=-1) + 1e9 * np.eye(len(kept))
    assert apart.min() >= 15.0
    assert len(kept) > 10


def test_ransac_finds_the_points_of_one_affine_map():
    a = RNG.random((40, 2)) * 100
    b = a @ np.array([[0.8, 0.3], [-0.2, 1.1]]) + [5, -7]
    wrong = np.arange(40) % 4 == 0
    b[wrong] += RNG.choice([-1, 1], (10, 2)) * RNG.uniform(30, 60, (10, 2))
    np.testing.assert_array_equal(affine_inliers(a, b, tolerance=1.0), ~wrong)
    with pytest.raises(ValueError, match="at least 4"):
        affine_inliers(a[:3], b[:3], tolerance=1.0)
    line = np.stack([np.arange(6.0), np.arange(6.0)], axis=1)  # no three of it have a map
    assert not affine_inliers(line, line, tolerance=1.0).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b": GRID[..., :3]}, r"wanted \[h, w, D\]"),
        ({"mask_a": np.ones((5, 4), bool)}, r"the mask is \(5, 4\), wanted \(4, 5\)"),
        ({"mask_b": np.zeros((4, 5), bool)}, "no true patch"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(ValueError, match=message):
        match(**({"a": GRID, "b": GRID, "mutual": False} | changes))
