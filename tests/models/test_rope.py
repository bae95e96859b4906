import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.models import rope
from tests.reference import det


def sincos(h, w, head_dim=64, *, coords=None):
    coords = rope.coordinates(h, w) if coords is None else coords
    angles = rope.angles(coords, rope.periods(head_dim, base=100.0))
    return jnp.sin(angles), jnp.cos(angles)


def test_reference_values():
    sin, cos = sincos(2, 3)
    first = [8.7e-08, -0.70734173, -0.98088241, -0.96989489]
    # atol: angles up to 2π carry float32 errors of 5e-7.
    np.testing.assert_allclose(sin[0, :4], first, atol=1e-6)
    np.testing.assert_allclose(
        sin[0, 16:20], [0.86602521, -0.00044361, -0.70757681, -0.98093092], atol=1e-6
    )
    np.testing.assert_allclose(sin[5, :4], -np.array(first), atol=1e-6)
    np.testing.assert_allclose(
        cos[5, 16:20], [-0.5000003, -0.9999999, -0.70663643, -0.19435684], atol=1e-6
    )


def test_periods_of_published_checkpoints():
    """They hold bfloat16."""
    published = [
        1, 1.3359375, 1.78125, 2.375, 3.15625, 4.21875, 5.625, 7.5,
        10, 13.3125, 17.75, 23.75, 31.625, 42.25, 56.25, 75,
    ]  # fmt: skip
    ours = rope.periods(64, base=100.0).astype(jnp.bfloat16)
    np.testing.assert_array_equal(ours.astype(jnp.float32), published)


def test_periods_between_two_ends():
    got = rope.periods(32, min_period=0.5, max_period=8.0)
    # rtol: float32 powers.
    np.testing.assert_allclose(got, np.geomspace(0.5, 8.0, 8), rtol=1e-6)


@pytest.mark.parametrize(
    ("normalize", "y", "x"),
    [
        ("separate", [-0.5, 0.5], [-0.75, -0.25, 0.25, 0.75]),
        ("max", [-0.75, -0.25], [-0.75, -0.25, 0.25, 0.75]),
        ("min", [-0.5, 0.5], [-0.5, 0.5, 1.5, 2.5]),
    ],
)
def test_coordinates_of_two_by_four(normalize, y, x):
    got = rope.coordinates(2, 4, normalize=normalize)
    wanted = [(a, b) for a in y for b in x]  # row-major
    np.testing.assert_allclose(got, wanted, atol=1e-7)  # float32


def test_rotation_keeps_length_and_prefix():
    x = jnp.asarray(det(2, 3 + 6, 2, 64))
    sin, cos = (t[:, None, :] for t in sincos(2, 3))
    turned = rope.rotate(x, sin, cos)
    np.testing.assert_array_equal(turned[:, :3], x[:, :3])
    assert np.abs(turned[:, 3:] - x[:, 3:]).max() > 0.1
    # rtol: float32 sums of 64 squares.
    np.testing.assert_allclose(
        jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-6
    )


def test_scores_depend_on_the_difference_of_positions():
    """q at a and k at b score like q at a + s and k at b + s: what makes the embedding relative."""
    q, k = det(2, 1, 1, 64)
    positions = jnp.array([[-0.4, 0.2], [0.3, -0.7]])

    def score(positions):
        sin, cos = (t[:, None, :] for t in sincos(1, 2, coords=positions))
        turned = rope.rotate(jnp.asarray(np.stack([q, k])).reshape(1, 2, 1, 64), sin, cos)[0]
        return float(turned[0, 0] @ turned[1, 0])

    # rel: float32 angles.
    assert score(positions + jnp.array([0.37, -0.11])) == pytest.approx(score(positions), rel=1e-4)
    assert score(positions * 1.5) != pytest.approx(score(positions), rel=1e-2)


def test_rotation_is_computed_in_the_dtype_of_sin():
    x = jnp.asarray(det(1, 6, 1, 64))
    sin, cos = (t[:, None, :].astype(jnp.bfloat16) for t in sincos(2, 3))
    turned = rope.rotate(x, sin, cos)
    assert turned.dtype == jnp.float32
    np.testing.assert_array_equal(turned, turned.astype(jnp.bfloat16).astype(jnp.float32))


COORDS = rope.coordinates(3, 5)


def perturbed(**changes):
    """A thousand draws of the augmentation, [1000, 15, 2]."""
    keys = jax.random.split(jax.random.key(0), 1000)
    return np.asarray(jax.vmap(lambda key: rope.perturb(COORDS, key, **changes))(keys))


def test_no_augmentation_is_the_identity():
    np.testing.assert_array_equal(rope.perturb(COORDS, jax.random.key(0)), COORDS)


def test_shift_moves_all_patches_alike_per_axis():
    moved = perturbed(shift=0.3) - np.asarray(COORDS)
    # atol: float32.
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1], moved.shape), atol=1e-6)
    draws = moved[:, 0]
    assert np.abs(draws).max() <= 0.3 + 1e-6
    # Uniform: mean within 5 standard errors (0.3/√3/√1000), the ends are reached.
    assert np.abs(draws.mean(axis=0)).max() < 0.028
    assert (np.abs(draws).max(axis=0) > 0.29).all()
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.16  # axes independent, 5 / √1000


@pytest.mark.parametrize(("name", "axes_differ"), [("jitter", True), ("rescale", False)])
def test_factors_are_log_uniform(name, axes_differ):
    factors = perturbed(**{name: 2.0}) / np.asarray(COORDS + 1e-9)
    factors = factors[:, np.abs(np.asarray(COORDS)).min(axis=1) > 0.1]  # not the middle lines
    # rtol: float32.
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1], factors.shape), rtol=1e-5)
    logs = np.log2(factors[:, 0])
    assert np.abs(logs).max() <= 1 + 1e-5
    assert np.abs(logs.mean(axis=0)).max() < 0.092  # 5 standard errors of U(-1, 1)
    assert (np.abs(logs).max(axis=0) > 0.98).all()
    assert np.allclose(logs[:, 0], logs[:, 1], atol=1e-5) != axes_differ


def test_order_is_shift_jitter_rescale():
    """The shift is scaled by the factors that come after it."""
    key = jax.random.key(3)
    shift = rope.perturb(COORDS, key, shift=0.5) - COORDS
    factors = rope.perturb(COORDS, key, jitter=2.0, rescale=3.0) / COORDS
    both = rope.perturb(COORDS, key, shift=0.5, jitter=2.0, rescale=3.0)
    use = np.abs(np.asarray(COORDS)) > 0.1  # the middle line has no quotient
    # rtol: float32; sums near 0.
    np.testing.assert_allclose(both[use], ((COORDS + shift) * factors)[use], rtol=1e-4, atol=1e-6)
