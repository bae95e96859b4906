import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from dinov3_jax.data.masking import mask_indices_and_weights
from dinov3_jax.losses import ibot
from tests.reference import det

# One compilation is quicker than one an operation.
ibot_loss = jax.jit(ibot.ibot_loss, static_argnames="crops")


def test_equals_a_loop_over_crops():
    """The mean over all crops of each crop's mean over its masked patches."""
    rng = np.random.default_rng(0)
    crops, patches, prototypes = 6, 9, 5
    masks = rng.random((crops, patches)) < 0.4
    masks[2] = masks[5] = False
    student = rng.normal(size=(crops, patches, prototypes)).astype(np.float32)
    targets = rng.dirichlet(np.ones(prototypes), size=(crops, patches)).astype(np.float32)
    wanted = 0.0
    for crop in range(crops):
        terms = [
            -(targets[crop, i] * scipy.special.log_softmax(student[crop, i] / 0.1)).sum()
            for i in range(patches)
            if masks[crop, i]
        ]
        wanted += np.mean(terms) if terms else 0.0
    wanted /= crops
    indices, weights = mask_indices_and_weights(masks)
    flat = lambda x: jnp.asarray(x.reshape(-1, prototypes)[indices])  # noqa: E731
    got = ibot_loss(flat(student), flat(targets), jnp.asarray(weights), crops=crops)
    assert float(got) == pytest.approx(wanted, rel=1e-6)  # float32 sums


def test_no_opinion_costs_ln_k_times_the_masked_share():
    targets = jax.nn.softmax(jnp.asarray(det(6, 7)))
    weights = jnp.asarray([0.5, 0.5, 0.25, 0.25, 0.25, 0.25])  # two masked crops
    got = ibot_loss(jnp.zeros((6, 7)), targets, weights, crops=4)
    assert float(got) == pytest.approx(0.5 * np.log(7), rel=1e-6)  # float32


def test_group_axis_is_a_sum():
    logits = jnp.asarray(det(4, 3, 5))
    targets = jax.nn.softmax(jnp.asarray(det(4, 3, 5)))
    weights = jnp.abs(jnp.asarray(det(4, 3)))
    flat = ibot_loss(logits.reshape(12, 5), targets.reshape(12, 5), weights.reshape(12), crops=8)
    assert float(ibot_loss(logits, targets, weights, crops=8)) == pytest.approx(
        float(flat),
        rel=1e-6,  # float32 sums in another order
    )


def test_gradient_reaches_the_student_only():
    logits = jnp.asarray(det(3, 5))
    targets = jax.nn.softmax(jnp.asarray(det(3, 5)))
    loss = lambda z, t: ibot_loss(z, t, jnp.ones(3), crops=2)  # noqa: E731
    to_student, to_teacher = jax.jit(jax.grad(loss, argnums=(0, 1)))(logits, targets)
    np.testing.assert_array_equal(to_teacher, 0.0)
    wanted = (jax.nn.softmax(logits / 0.1) - targets) / 0.1 / 2
    np.testing.assert_allclose(to_student, wanted, atol=1e-6)  # float32


def test_weight_zero_silences_a_token():
    logits = jnp.asarray(det(3, 5))
    targets = jax.nn.softmax(jnp.asarray(det(3, 5)))
    weights = jnp.array([1.0, 0.0, 1.0])
    changed = ibot_loss(logits.at[1].add(9.0), targets, weights, crops=1)
    assert changed == ibot_loss(logits, targets, weights, crops=1)
