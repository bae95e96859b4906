import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from dinov3_jax.losses import koleo
from tests.reference import det

# One compilation is quicker than one an operation.
koleo_loss = jax.jit(koleo.koleo_loss, static_argnames="topk")
koleo_gradient = jax.jit(jax.grad(koleo.koleo_loss))


def test_reference_values():
    # rel: seven digits printed, float32.
    assert float(koleo_loss(jnp.asarray(det(5, 4)))) == pytest.approx(0.6934947, rel=1e-6)
    assert float(koleo_loss(jnp.asarray(det(5, 4)), topk=2)) == pytest.approx(0.5379051, rel=1e-6)


@pytest.mark.parametrize("topk", [1, 3])
def test_equals_nearest_neighbours_of_sklearn(topk):
    features = np.random.default_rng(0).normal(size=(12, 5))
    search = NearestNeighbors(n_neighbors=topk + 1).fit(normalize(features))
    distances = search.kneighbors(normalize(features))[0][:, 1:]  # without the point itself
    got = koleo_loss(jnp.asarray(features, jnp.float32), topk=topk)
    # rel: the loss adds 1e-8 to distances of order 1; float32.
    assert float(got) == pytest.approx(-np.log(distances).mean(), rel=1e-5)


def test_groups_do_not_see_each_other():
    features = jnp.asarray(det(3, 2, 6, 4))
    alone = [koleo_loss(group) for group in features.reshape(6, 6, 4)]
    # rel: float32 sums.
    assert float(koleo_loss(features)) == pytest.approx(float(sum(alone) / 6), rel=1e-6)
    moved = features.at[2, 1].multiply(jnp.asarray(det(6, 4)))
    gradient = koleo_gradient(features)
    gradient_moved = koleo_gradient(moved)
    np.testing.assert_array_equal(gradient[:2], gradient_moved[:2])


def test_order_within_a_group_does_not_matter():
    features = jnp.asarray(det(8, 4))
    order = np.random.default_rng(0).permutation(8)
    # rel: sums in another order.
    assert float(koleo_loss(features[order])) == pytest.approx(
        float(koleo_loss(features)), rel=1e-6
    )


def test_length_does_not_matter():
    features = jnp.asarray(det(6, 4))
    lengths = jnp.asarray([[0.1], [1.0], [10.0], [3.0], [0.5], [7.0]])
    # rel: float32 division by the length.
    assert float(koleo_loss(features * lengths)) == pytest.approx(
        float(koleo_loss(features)), rel=1e-6
    )


def test_a_group_of_one_has_no_neighbour():
    assert koleo_loss(jnp.ones((1, 4))) == 0.0
    np.testing.assert_array_equal(koleo_gradient(jnp.ones((1, 4))), 0.0)


@pytest.mark.parametrize(
    "features",
    [jnp.ones((4, 8)), jnp.zeros((4, 8)), jnp.asarray(det(4, 8)).at[2].set(det(4, 8)[1])],
    ids=["equal", "zero", "pair"],
)
def test_duplicates_stay_finite(features):
    value, gradient = koleo_loss(features), koleo_gradient(features)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_equal_features_cost_minus_log_epsilon():
    # The difference vector is eps in each of 4 components, so the distance is 2 eps: -log(3 eps).
    assert float(koleo_loss(jnp.ones((3, 4)))) == pytest.approx(-np.log(3e-8), rel=1e-6)


def test_gradient_flows_into_both_ends_of_a_pair():
    """Point 0 is nearest to 1; moving 1's partner moves the loss although 2 is nobody's choice."""
    features = jnp.array([[1.0, 0.0], [1.0, 0.2], [-1.0, 0.3]])
    gradient = koleo_gradient(features)
    pair = _gradient(lambda x: -jnp.mean(_log_distances(x, [1, 0, 1])), features)
    np.testing.assert_allclose(gradient, pair, rtol=1e-4, atol=1e-6)  # float32
    # Without the neighbour's part the gradient of row 1, chosen twice, would be another.
    one_end = _gradient(
        lambda x: -jnp.mean(_log_distances(x, [1, 0, 1], neighbours=features)), features
    )
    assert np.abs(gradient[1] - one_end[1]).max() > 0.1


def _gradient(function, x):
    return jax.jit(jax.grad(function))(x)


def _log_distances(x, chosen, *, neighbours=None):
    neighbours = x if neighbours is None else neighbours
    unit = lambda v: v / jnp.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
    return jnp.log(jnp.linalg.norm(unit(x) - unit(neighbours)[jnp.array(chosen)], axis=-1))


def test_descent_spreads_points():
    features = jnp.asarray(np.random.default_rng(0).normal([3, 0, 0], 0.1, (8, 3)), jnp.float32)
    start = koleo_loss(features)
    step = jax.jit(lambda x: x - 0.1 * koleo_gradient(x))
    for _ in range(100):
        features = step(features)
    assert koleo_loss(features) < start - 1.0


def test_computed_in_float32():
    features = jnp.asarray(det(5, 4), jnp.bfloat16)
    got = koleo_loss(features)
    assert got.dtype == jnp.float32
    assert got == koleo_loss(features.astype(jnp.float32))


@pytest.mark.parametrize("topk", [0, 5])
def test_topk_out_of_range(topk):
    with pytest.raises(ValueError, match=f"topk is {topk}, wanted 1 to 4 in groups of 5 samples"):
        koleo_loss(jnp.asarray(det(5, 4)), topk=topk)
