import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.augment.normalize import normalize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_formula(dtype):
    levels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3)).astype(dtype)
    got = normalize(jnp.asarray(levels), mean=MEAN, std=STD)
    assert got.dtype == jnp.float32
    want = (levels.astype(np.float64) / 255 - MEAN) / STD
    np.testing.assert_allclose(got, want, atol=2e-6)  # float32 rounding of values up to 2.7
