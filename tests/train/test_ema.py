import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.train.ema import ema_update
from tests.reference import det

TEACHER = {"a": jnp.asarray(det(3, 4)), "b": {"c": jnp.asarray(det(5))}}
STUDENT = jax.tree.map(lambda x: 2.0 - x, TEACHER)


def test_moves_towards_the_student():
    new = ema_update(TEACHER, STUDENT, 0.75, 0.25)
    # atol: float32.
    wanted = jax.tree.map(lambda t, s: 0.75 * t + 0.25 * s, TEACHER, STUDENT)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new, wanted)


def test_ends():
    still = ema_update(TEACHER, STUDENT, 1.0, 0.0)
    jax.tree.map(np.testing.assert_array_equal, still, TEACHER)
    copied = ema_update(TEACHER, STUDENT, 0.0, 1.0)
    jax.tree.map(np.testing.assert_array_equal, copied, STUDENT)


def test_many_steps_are_a_geometric_sum():
    x = {"x": jnp.float32(0.0)}
    for _ in range(100):
        x = ema_update(x, {"x": jnp.float32(1.0)}, jnp.float32(0.99), jnp.float32(0.01))
    assert float(x["x"]) == pytest.approx(1 - 0.99**100, rel=1e-5)  # 100 float32 roundings


def test_the_complement_keeps_small_steps():
    """At momentum 0.9999 float32(1) - momentum would be off by 6e-4 of itself."""
    near = jnp.float32(0.9999)
    step = ema_update({"x": jnp.float32(0.0)}, {"x": jnp.float32(1.0)}, near, jnp.float32(1e-4))[
        "x"
    ]
    assert float(step) == pytest.approx(1e-4, rel=1e-6)
    assert float(1 - near) != pytest.approx(1e-4, rel=1e-4)


def test_trees_must_agree():
    with pytest.raises(ValueError, match=r"structure|key"):
        ema_update(TEACHER, {"a": STUDENT["a"]}, 0.5, 0.5)
