import numpy as np
import pytest
from sklearn.decomposition import PCA

from dinov3_jax.evals.pictures import nearest, pca_rgb, similarity

RNG = np.random.default_rng(0)
TOKENS = (RNG.normal(size=(2, 6, 5, 8)) * np.arange(8, 0, -1)).astype(np.float32)


def test_pca_agrees_with_scikit_learn():
    colours = pca_rgb(TOKENS).reshape(-1, 3).astype(float)
    rows = TOKENS.reshape(-1, 8).astype(np.float64)
    oracle = PCA(3, svd_solver="full").fit(rows)
    largest = np.abs(oracle.components_).argmax(axis=1)
    scores = oracle.transform(rows) * np.sign(oracle.components_[np.arange(3), largest])
    for channel in range(3):
        inside = (colours[:, channel] > 0) & (colours[:, channel] < 255)
        r = np.corrcoef(colours[inside, channel], scores[inside, channel])[0, 1]
        # An affine map rounded to 255 levels: error 1/255 against a spread near 0.25.
        assert r > 0.9999


def test_pca_stretches_and_repeats_itself():
    colours = pca_rgb(TOKENS)
    assert colours.shape == (2, 6, 5, 3)
    assert colours.dtype == np.uint8
    assert (colours.reshape(-1, 3).min(0) == 0).all()
    assert (colours.reshape(-1, 3).max(0) == 255).all()
    np.testing.assert_array_equal(colours, pca_rgb(TOKENS.copy()))


def test_pca_ignores_shift_and_scale():
    moved = 7 * TOKENS.astype(np.float64) + RNG.normal(size=8)
    # Rounding may move a value that lies on the edge of two levels.
    assert np.abs(pca_rgb(moved).astype(int) - pca_rgb(TOKENS)).max() <= 1


def test_pca_is_joint_over_images():
    twice = np.concatenate([TOKENS[:1], TOKENS[:1]])
    colours = pca_rgb(twice)
    np.testing.assert_array_equal(colours[0], colours[1])


def test_pca_shows_no_rounding_noise():
    line = RNG.normal(size=(1, 4, 4, 1)) * np.arange(1.0, 9.0)  # one direction only
    colours = pca_rgb(line.astype(np.float32).astype(np.float64))
    assert np.ptp(colours[..., 0]) == 255
    # float32 rounding is 1e-7 of the signal, a variance of 1e-14: below the cut at 1e-10.
    assert (colours[..., 1:] == 128).all()
    assert (pca_rgb(np.ones((1, 3, 3, 4))) == 128).all()


def test_similarity():
    cosine = similarity(TOKENS[0], (2, 3))
    assert cosine.shape == (6, 5)
    np.testing.assert_allclose(cosine[2, 3], 1, atol=1e-6)  # float32 square root and division
    a, b = TOKENS[0, 2, 3], TOKENS[0, 5, 0]
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(cosine[5, 0], expected, atol=1e-6)  # same
    np.testing.assert_allclose(similarity(9 * TOKENS[0], (2, 3)), cosine, atol=1e-6)  # same


def test_nearest():
    bank = np.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0], [5.0, 5.0]])
    queries = np.array([[1.0, 0.1], [1.0, 1.0]])
    np.testing.assert_array_equal(nearest(queries, bank, 2), [[0, 2], [2, 3]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pca_rgb(np.zeros((2, 3, 3, 2))), "D >= 3"),
        (lambda: pca_rgb(np.full((1, 2, 2, 3), np.nan)), "not finite"),
        (lambda: similarity(TOKENS[0], (6, 0)), "outside the patch grid of 6 x 5"),
        (lambda: similarity(TOKENS, (0, 0)), "of one image"),
        (lambda: nearest(np.ones((1, 2)), np.ones((3, 2)), 4), "wanted 1 to the 3"),
        (lambda: nearest(np.ones((1, 2)), np.ones((3, 4)), 1), r"\[m, D\]"),
    ],
)
def test_errors_say_what_was_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
