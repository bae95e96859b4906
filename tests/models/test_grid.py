"""Interpolation of patch grids."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.models.grid import resize

ROUNDING = 1e-6  # float32, four or so terms of size 1


def tokens(h, w, d=3, seed=0):
    return np.random.default_rng(seed).uniform(size=(2, h * w, d)).astype(np.float32)


KINDS = pytest.mark.parametrize(
    "kind", [dict(method=m, antialias=a) for m in ("bicubic", "bilinear") for a in (True, False)]
)


@KINDS
@pytest.mark.parametrize(("old", "new"), [((9, 9), (6, 6)), ((4, 6), (8, 3)), ((2, 2), (5, 5))])
def test_constants_and_row_major_order(kind, old, new):
    flat = jnp.ones((1, old[0] * old[1], 2))
    np.testing.assert_allclose(resize(flat, old, new, **kind), 1.0, atol=ROUNDING)
    rows = jnp.repeat(jnp.arange(old[0], dtype=jnp.float32), old[1]).reshape(1, -1, 1)
    got = resize(rows, old, new, **kind).reshape(new)
    assert (np.diff(got, axis=0) > 0).all()
    np.testing.assert_allclose(np.diff(got, axis=1), 0.0, atol=ROUNDING * old[0])


@KINDS
def test_the_same_grid_is_untouched(kind):
    x = tokens(3, 5)
    np.testing.assert_array_equal(resize(jnp.asarray(x), (3, 5), (3, 5), **kind), x)


def test_bicubic_is_opencvs():
    """OpenCV has the same kernel, alignment and border; it does not antialias either."""
    import cv2

    x = tokens(9, 12)
    wanted = np.stack([cv2.resize(i.reshape(9, 12, 3), (8, 6), interpolation=2) for i in x])
    got = resize(jnp.asarray(x), (9, 12), (6, 8)).reshape(2, 6, 8, 3)
    # OpenCV computes weights in float32.
    np.testing.assert_allclose(got, wanted, atol=5 * ROUNDING)


def test_bilinear_halving_is_antialiased():
    """A triangle of half width 2: weights 1 3 3 1 over 8 inside the grid."""
    x = np.zeros((1, 8, 1), np.float32)
    x[0, 2] = 1.0
    got = resize(jnp.asarray(x), (1, 8), (1, 4), method="bilinear", antialias=True)[0, :, 0]
    np.testing.assert_allclose(got, [1 / 7, 3 / 8, 0.0, 0.0], atol=ROUNDING)


def test_antialiased_bicubic_is_pillows():
    from PIL import Image

    x = tokens(12, 9, d=1)
    wanted = [
        np.asarray(Image.fromarray(i.reshape(12, 9)).resize((6, 4), Image.Resampling.BICUBIC))
        for i in x
    ]
    got = resize(jnp.asarray(x), (12, 9), (4, 6), antialias=True).reshape(2, 4, 6)
    np.testing.assert_allclose(got, np.stack(wanted), atol=5 * ROUNDING)


@pytest.mark.parametrize("size", [(20, 28), (11, 9), (5, 7)])
def test_bicubic_is_that_of_opencv(size):
    """OpenCV has the slope, the centres and the edges of PyTorch."""
    grid = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    wanted = cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC)
    got = resize(grid.reshape(1, 35, 3), (5, 7), size).reshape(*size, 3)
    np.testing.assert_allclose(got, wanted, atol=2e-5)  # OpenCV is in float32


def test_bicubic_weights_between_two_pixels():
    weights = np.asarray(resize(jnp.eye(8)[None], (8, 1), (16, 1)))[0]  # [16, 8]
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=ROUNDING)
    # A quarter of a pixel past pixel 3, of 4 taps, by hand: t = .25, slope -.75.
    by_hand = [-0.10546875, 0.87890625, 0.26171875, -0.03515625]
    np.testing.assert_allclose(weights[7, 2:6], by_hand, atol=ROUNDING)
    halves = resize(jnp.eye(2)[None], (2, 1), (1, 1))[0, 0]
    np.testing.assert_allclose(halves, [0.5, 0.5], atol=ROUNDING)  # by symmetry
