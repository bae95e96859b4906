import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.evals.dense.depth_loss import loss, metres, padded, sig_loss, whole_patches

RANGE = dict(least=0.001, most=10.0)


def test_equal_logits_give_the_mean_of_the_bins():
    got = metres(np.zeros((2, 3, 256), np.float32), **RANGE)
    np.testing.assert_allclose(got, (0.001 + 10) / 2, rtol=1e-6)  # float32


def test_one_large_logit_gives_its_bin():
    logits = np.zeros((1, 256), np.float32)
    logits[0, 128] = 1e6
    bins = np.linspace(0.001, 10, 256)
    # The other 255 keep a weight of 0.1: 2.6e-5 of the total.
    np.testing.assert_allclose(metres(logits, **RANGE), bins[128], rtol=1e-3)


@pytest.mark.parametrize("step", [0, 99, 100, 5000])
def test_constant_maps(step):
    """Their log ratio has no variance: sqrt(0.15) |g| in either phase."""
    predicted, depth = np.full((2, 4, 4), 3.0, np.float32), np.full((2, 4, 4), 2.0, np.float32)
    wanted = np.sqrt(0.15) * np.log(3.001 / 2.001)
    np.testing.assert_allclose(sig_loss(predicted, depth, step, **RANGE), wanted, rtol=1e-5)


def test_the_variance_counts_from_step_100_on():
    rng = np.random.default_rng(0)
    predicted, depth = rng.uniform(1, 9, (2, 2, 5, 5)).astype(np.float32)
    g = np.log(predicted + 1e-3) - np.log(depth + 1e-3)
    before = np.sqrt(0.15) * abs(g.mean())
    after = np.sqrt(g.var(ddof=1) + 0.15 * g.mean() ** 2)
    np.testing.assert_allclose(sig_loss(predicted, depth, 99, **RANGE), before, rtol=1e-5)
    np.testing.assert_allclose(sig_loss(predicted, depth, 100, **RANGE), after, rtol=1e-5)


def test_unknown_and_far_pixels_have_no_effect():
    rng = np.random.default_rng(0)
    predicted, depth = rng.uniform(1, 9, (2, 20)).astype(np.float32)
    more = np.append(predicted, [1, 2, 3]), np.append(depth, np.float32([0, 10, 60]))
    for step in (0, 200):
        np.testing.assert_allclose(
            sig_loss(*more, step, **RANGE), sig_loss(predicted, depth, step, **RANGE), rtol=1e-6
        )


def test_a_batch_without_depths_has_no_gradient():
    depth = np.zeros((1, 4, 4), np.float32)
    value, grad = jax.value_and_grad(sig_loss)(jnp.ones((1, 4, 4)), depth, 200, **RANGE)
    assert value <= 1.1e-10
    assert (np.asarray(grad) == 0).all()


def test_whole_patches():
    """24 x 30 pixels in patches of 16: 32 x 32, 4 rows above, 1 column at the left."""
    image = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    got = padded(image, 16, (1, 2, 3))
    assert got.shape == (32, 32, 3)
    np.testing.assert_array_equal(got[4:28, 1:31], image)
    assert (got[:4] == (1, 2, 3)).all()
    assert (got[:, 31] == (1, 2, 3)).all()
    rows, columns = whole_patches((24, 30), (2, 2), 16)
    assert (rows.shape, columns.shape) == ((24, 2), (30, 2))
    heights = np.array([[8.0], [24.0]]) @ np.ones((1, 2))  # of the centres of the patches
    got = rows @ heights @ columns.T
    # Between the centres of the patches, rows 8 to 24, the map is the place of the pixel.
    np.testing.assert_allclose(got[4:20, 0], np.arange(8, 24) + 0.5, rtol=1e-6)
    np.testing.assert_array_equal(padded(image[:16, :16], 16, (0, 0, 0)), image[:16, :16])


def test_the_loss_is_that_of_interpolated_depths():
    logits = np.random.default_rng(0).standard_normal((1, 2, 3, 8)).astype(np.float32)
    depth = np.full((1, 8, 12), 3.0, np.float32)
    patches = metres(logits, **RANGE)
    large = jax.image.resize(patches, (1, 8, 12), "linear", antialias=False)
    np.testing.assert_allclose(
        loss(logits, depth, 100, size=(8, 12), stride=4, **RANGE),
        sig_loss(large, depth, 100, **RANGE),
        rtol=1e-5,  # float32
    )
