import cv2
import numpy as np
import pytest

from dinov3_jax.evals.correspondence.interpolate import bicubic, bicubic_weights, sample

RNG = np.random.default_rng(0)
GRID = RNG.normal(size=(5, 7, 3)).astype(np.float32)


def test_sample_is_exact_on_patches_linear_between_and_constant_beyond():
    y, x = np.indices((5, 7)).reshape(2, -1)
    np.testing.assert_array_equal(sample(GRID, x, y), GRID.reshape(-1, 3))
    ramp = np.stack([2 * x + 3 * y], axis=-1).reshape(5, 7, 1)
    points = RNG.random((20, 2)) * [6, 4]
    got = sample(ramp, points[:, 0], points[:, 1])[:, 0]
    np.testing.assert_allclose(got, 2 * points[:, 0] + 3 * points[:, 1], rtol=1e-5)  # float32
    np.testing.assert_array_equal(sample(GRID, np.array([-3.0]), np.array([99.0])), GRID[[4], [0]])


@pytest.mark.parametrize("size", [(20, 28), (11, 9), (5, 7)])
def test_bicubic_is_that_of_opencv(size):
    """OpenCV has the slope, the centres and the edges of PyTorch."""
    wanted = cv2.resize(GRID, size[::-1], interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(bicubic(GRID, *size), wanted, atol=2e-5)  # OpenCV is in float32


def test_bicubic_weights_between_two_pixels():
    middle = bicubic_weights(8, 16)
    np.testing.assert_allclose(middle.sum(axis=1), 1.0, atol=1e-12)
    # A quarter of a pixel past pixel 3, of 4 taps, by hand: t = .25, slope -.75.
    np.testing.assert_allclose(
        middle[7, 2:6], [-0.10546875, 0.87890625, 0.26171875, -0.03515625], atol=1e-12
    )
    np.testing.assert_allclose(bicubic_weights(2, 1)[0], [0.5, 0.5])  # by symmetry


def test_a_constant_stays():
    np.testing.assert_allclose(bicubic(np.ones((3, 4, 2)), 10, 6), 1.0, atol=1e-6)  # float32
