import numpy as np
import pytest

from dinov3_jax.augment.normalize import normalize
from dinov3_jax.config import ConfigError
from dinov3_jax.data.bicubic import resize
from dinov3_jax.evals.retrieval.embed import embedder, gem_pool
from tests.features.models import images, mesh, vit

# rtol, atol: the same float32 sums, in an order that depends on the size of the batch.
NEAR = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    return vit()


def test_images_of_several_shapes_come_back_in_order(model):
    pixels = [images(1, *((8, 12), (12, 8))[i % 2], seed=i)[0] for i in range(5)]
    got = embedder(model, mesh(), batch=2)(pixels.__getitem__, 5)
    for row, image in zip(got, pixels):
        alone = model(normalize(image[None], mean=model.mean, std=model.std))
        np.testing.assert_allclose(row, alone.cls[0], **NEAR)


def test_scales_are_averaged(model):
    image = images(1, 16, 16)[0]
    half = resize(image, 8, 8)
    embed = embedder(model, mesh(1), batch=1)
    ones = [embed(lambda i, x=x: x, 1) for x in (image, half)]
    both = embedder(model, mesh(1), batch=1, scales=(1.0, 0.5))(lambda i: image, 1)
    np.testing.assert_allclose(both, sum(ones) / 2, **NEAR)


def test_gem_stands_behind_cls(model):
    image = images(1, 8, 8)
    got = embedder(model, mesh(1), batch=1, gem=4.0)(image.__getitem__, 1)
    out = model(normalize(image, mean=model.mean, std=model.std))
    grid = np.asarray(out.patch_tokens).reshape(1, 2, 2, 16)
    np.testing.assert_allclose(got[:, :16], out.cls, **NEAR)
    np.testing.assert_allclose(got[:, 16:], gem_pool(grid, 4.0), **NEAR)


def test_gem_of_a_constant_is_the_constant():
    constant = np.full((1, 3, 5, 2), 0.7)
    np.testing.assert_allclose(gem_pool(constant, 4.0), 0.7, rtol=1e-6)  # float32
    # Negative values count as 1e-6; power 1 is the mean.
    np.testing.assert_allclose(gem_pool(-constant, 4.0), 1e-6, rtol=1e-6)
    x = np.random.default_rng(0).random((2, 3, 5, 4))
    np.testing.assert_allclose(gem_pool(x, 1.0), x.mean(axis=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize("scales", [(), (1.0, 0.0)])
def test_scales_that_make_no_sense(model, scales):
    with pytest.raises(ConfigError, match="wanted at least one, each above 0"):
        embedder(model, mesh(1), scales=scales)
