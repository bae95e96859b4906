import numpy as np
import pytest
from sklearn.decomposition import PCA

from dinov3_jax.features.whitening import fit_whitening, whiten

RNG = np.random.default_rng(0)
X = RNG.normal(size=(500, 6)) @ RNG.normal(size=(6, 6)) + 3.0


def test_covariance_becomes_the_identity():
    whitening = fit_whitening(X, 6)
    got = (X - whitening.mean) @ whitening.projection
    np.testing.assert_allclose(got.T @ got / len(got), np.eye(6), atol=1e-9)  # float64


def test_it_is_the_whitening_of_scikit_learn_but_for_signs():
    whitening = fit_whitening(X, 3)
    got = (X - whitening.mean) @ whitening.projection
    wanted = PCA(3, whiten=True).fit_transform(X) * np.sqrt(500 / 499)  # over n, not n - 1
    np.testing.assert_allclose(np.abs(got), np.abs(wanted), atol=1e-9)  # float64


def test_rows_come_out_with_length_1():
    got = whiten(fit_whitening(X, 4), X[:7])
    assert got.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1.0, rtol=1e-6)  # float32


def test_directions_without_variance_are_not_blown_up():
    flat = np.concatenate([X[:, :2], np.zeros((500, 2))], axis=1)
    whitening = fit_whitening(flat, 4)
    assert np.isfinite(whitening.projection).all()
    got = (flat - whitening.mean) @ whitening.projection
    np.testing.assert_allclose(got[:, 2:], 0.0, atol=1e-9)


@pytest.mark.parametrize(
    ("x", "dims", "message"),
    [
        (X[:1], 2, "n >= 2"),
        (X, 7, "dims is 7, wanted 1 to the 6"),
        (np.ones((4, 2)), 2, "all 4 rows are equal"),
    ],
)
def test_mistakes(x, dims, message):
    with pytest.raises(ValueError, match=message):
        fit_whitening(x, dims)
