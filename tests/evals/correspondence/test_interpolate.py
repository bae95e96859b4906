import numpy as np

from dinov3_jax.evals.correspondence.interpolate import sample

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
