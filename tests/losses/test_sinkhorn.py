import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.losses.sinkhorn import center_softmax, sinkhorn as eager_sinkhorn, update_center
from tests.reference import det

# One compilation is quicker than one an operation.
sinkhorn = jax.jit(eager_sinkhorn, static_argnames="iterations")


def textbook(logits, temperature, iterations=3):
    """The algorithm as published: alternate normalisation of a matrix, float64."""
    q = np.exp(logits.astype(np.float64) / temperature).T  # [K, n]
    prototypes, samples = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * prototypes
        q /= q.sum(axis=0, keepdims=True) * samples
    return (q * samples).T


def test_reference_values():
    got = np.asarray(sinkhorn(det(6, 8), temperature=0.07))
    row = [
        2.5009e-4, 0.868513, 7.2048e-10, 5.2548e-11, 0.126887, 4.35002e-3, 7.4544e-12, 1.4251e-8,
    ]  # fmt: skip
    columns = [0.54369, 0.95432, 0.78996, 0.73239, 0.59642, 0.91679, 0.82405, 0.64238]
    # rtol: five digits are printed.
    np.testing.assert_allclose(got[0], row, rtol=5e-5)
    np.testing.assert_allclose(got.sum(axis=0), columns, rtol=2e-5)


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_equals_the_textbook(iterations):
    logits = np.random.default_rng(0).normal(size=(20, 12)).astype(np.float32)
    got = sinkhorn(jnp.asarray(logits), temperature=0.1, iterations=iterations)
    # rtol: exponents of a few tens carry an absolute float32 error of some 1e-6.
    np.testing.assert_allclose(got, textbook(logits, 0.1, iterations), rtol=3e-5)


def test_extreme_logits_stay_finite():
    """Logits of 1e4 over a temperature of 1e-3: exp(1e7) without the logarithms."""
    logits = 1e4 * jnp.asarray(det(6, 8))
    got = np.asarray(sinkhorn(logits, temperature=1e-3))
    assert np.isfinite(got).all()
    # atol: scores of 1e7 are resolved to 1 in float32, yet the last step normalises each row.
    np.testing.assert_allclose(got.sum(axis=1), 1.0, atol=1e-5)


def test_rows_sum_to_one_and_columns_get_even():
    got = np.asarray(sinkhorn(jnp.asarray(det(32, 8)), temperature=0.3, iterations=50))
    # Exponents of some tens in float32; 50 iterations have converged.
    np.testing.assert_allclose(got.sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(got.sum(axis=0), 32 / 8, rtol=1e-5)


def test_rows_that_do_not_count_equal_rows_left_out():
    logits = jnp.asarray(det(9, 8))
    valid = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0], bool)
    masked = sinkhorn(logits, temperature=0.07, valid=jnp.asarray(valid))
    left_out = sinkhorn(logits[valid], temperature=0.07)
    # rtol: the sums run over the same numbers in another order.
    np.testing.assert_allclose(np.asarray(masked)[valid], left_out, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(masked).sum(axis=1), 1.0, atol=1e-6)


def test_rows_that_do_not_count_may_hold_anything_finite():
    logits = jnp.asarray(det(4, 8)).at[3].set(1e30)
    valid = jnp.array([True, True, True, False])
    got = sinkhorn(logits, temperature=0.07, valid=valid)
    clean = sinkhorn(logits[:3], temperature=0.07)
    # rtol: as above.
    np.testing.assert_allclose(got[:3], clean, rtol=1e-5)


def test_permutations_pass_through():
    rng = np.random.default_rng(1)
    logits = det(10, 8)
    rows, columns = rng.permutation(10), rng.permutation(8)
    shuffled = sinkhorn(jnp.asarray(logits[rows][:, columns]), temperature=0.07)
    straight = np.asarray(sinkhorn(jnp.asarray(logits), temperature=0.07))
    # rtol: sums in another order.
    np.testing.assert_allclose(shuffled, straight[rows][:, columns], rtol=1e-5)


def test_shifting_all_logits_changes_nothing():
    logits = jnp.asarray(det(6, 8))
    # rtol: 100 + z keeps z to 8e-6, times 1/0.07.
    np.testing.assert_allclose(
        sinkhorn(logits + 100.0, temperature=0.07), sinkhorn(logits, temperature=0.07), rtol=5e-4
    )


def test_half_precision_input_float32_output():
    logits = jnp.asarray(det(6, 8), jnp.bfloat16)
    got = sinkhorn(logits, temperature=0.07)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, sinkhorn(logits.astype(jnp.float32), temperature=0.07))


def test_traced_and_eager_agree():
    logits = jnp.asarray(det(6, 8))
    eager = eager_sinkhorn(logits, temperature=0.07)
    # rtol: the compiler may multiply by the inverse, exponents of some tens.
    np.testing.assert_allclose(sinkhorn(logits, temperature=0.07), eager, rtol=2e-5)


def test_iterations_below_one():
    with pytest.raises(ValueError, match="iterations is 0, wanted at least 1"):
        sinkhorn(jnp.zeros((2, 2)), temperature=1.0, iterations=0)


def test_center_softmax():
    logits, center = det(5, 8), det(8)
    got = np.asarray(center_softmax(jnp.asarray(logits), jnp.asarray(center), temperature=0.1))
    wanted = np.exp((logits - center) / 0.1)
    # rtol: exponents up to 20 in float32.
    np.testing.assert_allclose(got, wanted / wanted.sum(axis=1, keepdims=True), rtol=2e-5)
    # A centre that is the same for every prototype is no centre.
    np.testing.assert_allclose(
        center_softmax(jnp.asarray(logits), jnp.full(8, 3.0), temperature=0.1),
        center_softmax(jnp.asarray(logits), jnp.zeros(8), temperature=0.1),
        rtol=2e-5,  # as above
    )


def test_center_follows_the_mean():
    logits = jnp.asarray(det(50, 4))
    center = jnp.zeros(4)
    for _ in range(200):
        center = update_center(center, logits)
    # atol: 0.9^200 is 7e-10; float32 sums.
    np.testing.assert_allclose(center, np.mean(np.asarray(logits), axis=0), atol=1e-6)
    one = update_center(jnp.ones(4), logits, momentum=0.75)
    np.testing.assert_allclose(one, 0.75 + 0.25 * np.mean(np.asarray(logits), axis=0), atol=1e-6)
