import dataclasses

import numpy as np
import pytest

from dinov3_jax.augment.normalize import normalize
from dinov3_jax.evals.dense.tokens import frozen_tokens, mean_colour, spread
from dinov3_jax.features.extract import extractor
from tests.features.models import convnext, images, mesh, vit

# float32 sums, in an order that depends on the size of the batch.
NEAR = dict(rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [8, 3])
def test_they_are_those_of_the_extractor_however_many_devices(count):
    """8 images are shared by 8 devices; 3 are filled up, and come back whole on each."""
    model, pixels = vit(), images(count)
    wanted = extractor(model, mesh(1), tokens="patch", batch=count)(pixels)["patch_tokens"]
    got = frozen_tokens(model, mesh(8))(pixels)
    assert got.shape == (count, 2, 3, 16)
    assert got.sharding.is_equivalent_to(spread(count, mesh(8)), got.ndim)
    assert got.sharding.is_fully_replicated == (count == 3)
    np.testing.assert_allclose(got, wanted, **NEAR)


def test_a_convnext_imitates_the_grid_of_its_patches():
    model, pixels = convnext(patch_size=8), images(1, 32, 64)
    got = frozen_tokens(model, mesh(1))(pixels)
    assert got.shape == (1, 4, 8, 12)
    seen = normalize(pixels, mean=model.mean, std=model.std)
    wanted = model.intermediate_layers(seen, 1)[0].patch_tokens
    np.testing.assert_allclose(got.reshape(1, 32, 12), wanted, **NEAR)


def test_the_mean_colour_is_nearly_zero_once_normalised():
    model = dataclasses.replace(vit(), mean=(0.43, 0.411, 0.296), std=(0.213, 0.156, 0.143))
    seen = normalize(np.array(mean_colour(model), np.uint8), mean=model.mean, std=model.std)
    assert np.abs(seen).max() <= 0.5 / 255 / min(model.std) + 1e-6  # half a level
