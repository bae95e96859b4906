import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from dinov3_jax.losses import dino
from dinov3_jax.losses.sinkhorn import sinkhorn
from tests.reference import det

# One compilation is quicker than one an operation.
dino_loss = jax.jit(dino.dino_loss, static_argnames=("student_temperature", "ignore_diagonal"))


def crop_first(x):
    """The reference puts crops before images; ours are image-major."""
    return jnp.moveaxis(jnp.asarray(x), 0, 1)


TARGETS = crop_first(np.asarray(sinkhorn(det(6, 8), temperature=0.07)).reshape(2, 3, 8))


@pytest.mark.parametrize(
    ("logits", "ignore_diagonal", "wanted"),
    [
        (0.5 * det(2, 3, 8), True, 10.0169268),
        (0.5 * det(2, 3, 8), False, 5.3524375),
        (0.3 * det(8, 3, 8), False, 3.6561804),
    ],
)
def test_reference_values(logits, ignore_diagonal, wanted):
    got = dino_loss(crop_first(logits), TARGETS, ignore_diagonal=ignore_diagonal)
    assert float(got) == pytest.approx(wanted, rel=1e-6)  # eight digits printed, float32


def double_loop(logits, targets, *, skip_same):
    total, pairs = 0.0, 0
    for image in range(logits.shape[0]):
        for s in range(logits.shape[1]):
            for t in range(targets.shape[1]):
                if skip_same and s == t:
                    continue
                log_p = scipy.special.log_softmax(logits[image, s].astype(np.float64) / 0.1)
                total -= (targets[image, t] * log_p).sum()
                pairs += 1
    return total / pairs


@pytest.mark.parametrize("skip_same", [False, True])
@pytest.mark.parametrize(("students", "teachers"), [(2, 2), (5, 2), (1, 3)])
def test_equals_a_double_loop(students, teachers, skip_same):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, students, 6)).astype(np.float32)
    targets = rng.dirichlet(np.ones(6), size=(3, teachers)).astype(np.float32)
    got = dino_loss(jnp.asarray(logits), jnp.asarray(targets), ignore_diagonal=skip_same)
    wanted = double_loop(logits, targets, skip_same=skip_same)
    assert float(got) == pytest.approx(wanted, rel=1e-6)  # float32 sums


def test_no_opinion_costs_ln_k():
    targets = jax.nn.softmax(jnp.asarray(det(4, 2, 7)))
    for ignore_diagonal in (False, True):
        got = dino_loss(jnp.zeros((4, 2, 7)), targets, ignore_diagonal=ignore_diagonal)
        assert float(got) == pytest.approx(np.log(7), rel=1e-6)  # float32


def test_perfect_student_costs_the_entropy():
    targets = jax.nn.softmax(jnp.asarray(det(4, 1, 7)))
    got = dino_loss(0.1 * jnp.log(targets), targets)
    entropy = scipy.special.entr(np.asarray(targets)).sum(axis=-1).mean()
    assert float(got) == pytest.approx(entropy, rel=1e-5)  # log and back in float32


def test_temperature_divides_logits():
    logits, targets = jnp.asarray(det(2, 2, 5)), jax.nn.softmax(jnp.asarray(det(2, 2, 5)))
    cold = dino_loss(logits, targets, student_temperature=0.05)
    assert float(cold) == pytest.approx(float(dino_loss(2 * logits, targets)), rel=1e-6)  # float32


def test_images_are_averaged():
    logits = jnp.asarray(0.5 * det(4, 2, 8))
    targets = jax.nn.softmax(jnp.asarray(det(4, 2, 8)))
    halves = [dino_loss(logits[i : i + 2], targets[i : i + 2]) for i in (0, 2)]
    assert float(dino_loss(logits, targets)) == pytest.approx(float(sum(halves) / 2), rel=1e-6)


def test_gradient_reaches_the_student_only():
    logits, targets = jnp.asarray(det(2, 2, 5)), jax.nn.softmax(jnp.asarray(det(2, 2, 5)))
    to_student, to_teacher = jax.jit(jax.grad(dino_loss, argnums=(0, 1)))(logits, targets)
    np.testing.assert_array_equal(to_teacher, 0.0)
    # d/dz of the cross-entropy with two targets: (softmax(z/0.1) - mean target) / 0.1 per row.
    wanted = (jax.nn.softmax(logits / 0.1) - targets.mean(axis=1, keepdims=True)) / 0.1 / 4
    np.testing.assert_allclose(to_student, wanted, atol=1e-6)  # float32


def test_half_precision_logits_are_summed_in_float32():
    logits = jnp.asarray(det(2, 2, 5), jnp.bfloat16)
    targets = jax.nn.softmax(jnp.asarray(det(2, 2, 5)))
    got = dino_loss(logits, targets)
    assert got.dtype == jnp.float32
    assert got == dino_loss(logits.astype(jnp.float32), targets)
