import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.features.batches import in_batches
from tests.features.models import images, mesh


@jax.jit
def compute(pixels):
    assert pixels.shape[0] == 4
    return {"mean": pixels.mean(axis=(1, 2, 3)), "pixels": pixels.astype(jnp.int32) + 1}


@pytest.mark.parametrize("n", [0, 3, 4, 9])
@pytest.mark.parametrize("devices", [1, 4])
def test_every_row_once_and_in_order(n, devices):
    pixels = images(n)
    got = in_batches(compute, pixels, size=4, mesh=mesh(devices))
    np.testing.assert_array_equal(got["pixels"], pixels.astype(np.int32) + 1)
    # float32 sums of 288 numbers up to 255.
    np.testing.assert_allclose(got["mean"], pixels.mean(axis=(1, 2, 3)), rtol=1e-6)
