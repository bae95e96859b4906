import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.preprocessing import normalize

from dinov3_jax.losses.normalize import l2_normalize
from tests.reference import det


def test_equals_sklearn():
    # rtol: a float32 square root and division.
    np.testing.assert_allclose(
        l2_normalize(jnp.asarray(det(5, 4))), normalize(det(5, 4)), rtol=1e-6
    )


def test_leading_axes():
    x = jnp.asarray(det(2, 3, 4))
    x = jnp.asarray(det(2, 3, 4))
    np.testing.assert_array_equal(l2_normalize(x)[1, 2], l2_normalize(x[1, 2]))


def test_gradient_at_zero_is_finite_and_that_of_x_over_eps():
    gradient = jax.grad(lambda x: l2_normalize(x, eps=1e-3).sum())(jnp.zeros(4))
    np.testing.assert_allclose(gradient, 1e3, rtol=1e-6)  # float32


def test_below_eps_the_length_is_eps():
    tiny = jnp.full((4,), 1e-6)
    np.testing.assert_allclose(l2_normalize(tiny, eps=1e-3), 1e-3, rtol=1e-6)  # float32


@pytest.mark.parametrize("eps", [1e-12, 1e-8])
def test_gradient_is_tangent_to_the_sphere(eps):
    x = jnp.asarray(det(4))
    jacobian = jax.jacobian(lambda v: l2_normalize(v, eps=eps))(x)
    np.testing.assert_allclose(jacobian @ x, 0.0, atol=1e-6)  # float32
