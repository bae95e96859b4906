"""The Gram loss: reference values, invariances, and what each treatment of negatives does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.losses.gram import gram_loss

SHAPE = (2, 4, 3)
# sin(1.7 i + 0.3) and cos(0.9 i) over the flat index.
A = jnp.asarray(np.sin(1.7 * np.arange(24) + 0.3).reshape(SHAPE), jnp.float32)
B = jnp.asarray(np.cos(0.9 * np.arange(24)).reshape(SHAPE), jnp.float32)
ROUNDING = 2e-6  # float32 dot products of three numbers; values near 1


def levels(x):
    """The same patches as two images of 4 and as one group of 8."""
    return x, x.reshape(1, 8, 3)


@pytest.mark.parametrize(
    ("negatives", "image", "group"),
    [
        ("keep", 1.1313655, 1.0139800),
        ("remove", 0.1658632, 0.1875885),
        ("clip_teacher", 0.6199125, 0.6313140),
    ],
)
def test_reference_values(negatives, image, group):
    for a, b, wanted in zip(levels(A), levels(B), (image, group)):
        assert gram_loss(a, b, negatives=negatives) == pytest.approx(wanted, abs=ROUNDING)


def test_remove_teacher_does_what_the_reference_meant():
    """Where both are negative nothing is asked; where only the teacher is, the student goes to 0.

    The reference zeroes the teacher first and then looks for its negatives, so it never removes a
    student entry.
    """
    student, teacher = (np.asarray(jnp.einsum("npd,nqd->npq", x, x)) for x in (A, B))
    both = (student < 0) & (teacher < 0)
    assert both.any()
    wanted = np.mean((np.where(both, 0, student) - np.maximum(teacher, 0)) ** 2)
    got = gram_loss(A, B, normalize=False, negatives="remove_teacher")
    assert got == pytest.approx(wanted, rel=ROUNDING)
    assert got < gram_loss(A, B, normalize=False, negatives="clip_teacher")


def test_no_gradient_where_both_similarities_are_negative():
    opposite = jnp.array([[1.0, 0.0], [-1.0, 0.2]])
    grads = jax.grad(lambda x: gram_loss(x, opposite, negatives="remove_teacher"))(
        jnp.array([[1.0, 0.1], [-1.0, 0.3]])
    )
    # The diagonal is 1 for both, the rest is removed.
    np.testing.assert_allclose(grads, 0.0, atol=1e-7)  # rounding of the unit lengths


def test_rotation_and_scale_of_the_features_do_not_matter():
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0].astype(np.float32)
    wanted = float(gram_loss(A, B))
    assert gram_loss(A @ turn, 3.0 * B) == pytest.approx(wanted, abs=ROUNDING)
    assert gram_loss(A, A) == 0.0
    assert gram_loss(A @ turn, A) == pytest.approx(0.0, abs=1e-12)  # rounding, squared


def test_widths_may_differ():
    wide = jnp.concatenate([B, jnp.zeros_like(B)], axis=-1)
    assert gram_loss(A, wide) == pytest.approx(float(gram_loss(A, B)), abs=ROUNDING)


def test_the_teacher_gets_no_gradient_and_zero_features_are_finite():
    assert not jax.grad(lambda b: gram_loss(A, b))(B).any()
    assert jnp.isfinite(jax.grad(lambda a: gram_loss(a, B))(jnp.zeros_like(A))).all()


def test_bfloat16_features_are_compared_in_float32():
    a, b = A.astype(jnp.bfloat16), B.astype(jnp.bfloat16)
    assert gram_loss(a, b) == gram_loss(a.astype(jnp.float32), b.astype(jnp.float32))


def test_errors_name_what_was_got():
    with pytest.raises(ValueError, match=r"student patches .2, 4. and teacher patches .2, 3."):
        gram_loss(A, B[:, :3])
    with pytest.raises(ValueError, match="'drop', wanted one of"):
        gram_loss(A, B, negatives="drop")
