import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.discovery.attention_masks import (
    AttentionSettings,
    attention,
    evaluate,
    jaccards,
    mass_masks,
)
from dinov3_jax.models.attention_maps import cls_attention
from tests.data.benchmarks.masked import masks, write_masked
from tests.features.models import convnext, images, mesh, vit


@pytest.fixture(scope="module")
def model():
    return vit(patch_size=8)


@pytest.fixture
def settings(tmp_path):
    return AttentionSettings(str(write_masked(tmp_path, "own")), size=32, batch=2)


def test_the_smallest_set_with_the_mass():
    maps = np.array([[[0.1, 0.5], [0.1, 0.3]], [[5, 1], [4, 90]], [[0.25, 0.25], [0.25, 0.25]]])
    got = mass_masks(maps, 0.6)
    assert got.tolist() == [
        [[False, True], [False, True]],  # .5 + .3
        [[False, False], [False, True]],  # 90 of 100; sums need not be 1
        [[True, True], [True, False]],  # of equal ones the first
    ]
    assert mass_masks(maps, 1.0).all()


def test_jaccards_of_masks_of_patches():
    """Patches of 8 pixels; what is not known counts neither way."""
    truth = masks()[0].astype(np.float32)  # rows 0..2, columns 1..3 of patches
    exact = np.zeros((4, 6), bool)
    exact[:2, 1:3] = True
    double = exact.copy()
    double[2:, 1:3] = True
    assert jaccards(np.stack([exact, double, ~exact]), truth).tolist() == [1, 0.5, 0]
    unknown = truth.copy()
    unknown[16:] = np.nan
    assert jaccards(double[None], unknown).tolist() == [1]


def test_maps_are_those_of_cls_attention_on_any_mesh(model):
    pixels = images(3, 16, 24)
    normalised = np.stack([(p / 255 - model.mean) / model.std for p in pixels]).astype(np.float32)
    wanted = np.asarray(cls_attention(model, normalised, 1))
    for devices in (1, 8):
        got = attention(model, mesh(devices), layer=None, batch=3)(pixels)
        # atol: float32, normalised in another order.
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_the_same_on_8_devices(model, settings):
    results = [evaluate(model, settings, mesh(n)) for n in (1, 8)]
    assert results[0].metrics == results[1].metrics  # masks are decisions, as long as none ties
    assert results[0].metrics["images"] == 3
    assert 0 < results[0].metrics["jaccard"] < 100
    assert len(results[0].pictures) == 3
    assert results[0].pictures[0].pixels.shape == (32, 48, 3)
    captions = [float(p.caption.split("Jaccard ")[1]) for p in results[0].pictures]
    assert captions == sorted(captions)


def test_equal_attention_is_chance(model, settings):
    """Without keys attention is equal everywhere: the first 60 % of the rows are the mask."""
    kernel = model.params["blocks"]["attn"]["qkv"]["kernel"]
    params = model.params | {
        "blocks": model.params["blocks"] | {
            "attn": model.params["blocks"]["attn"] | {
                "qkv": model.params["blocks"]["attn"]["qkv"] | {
                    "kernel": kernel.at[:, :, 16:32].set(0.0)
                }
            }
        }
    }  # fmt: skip
    blind = dataclasses.replace(model, params=params)
    # The grid is 4 x 4, of which 10 patches are kept: rows 0 and 1, and half of row 2.
    covered = np.zeros((32, 48), bool)
    covered[:16] = covered[16:24, :24] = True
    wanted = np.mean([(covered & m).sum() / (covered | m).sum() for m in masks()])
    got = evaluate(blind, settings, mesh(1)).metrics["jaccard"]
    assert got == pytest.approx(100 * wanted, abs=1e-9)  # a mean in float64


def test_images_without_foreground_are_counted(model, settings, tmp_path):
    Image.new("L", (48, 32)).save(tmp_path / "masks/0.png")
    metrics = evaluate(model, settings, mesh(1)).metrics
    assert (metrics["images"], metrics["images_without_foreground"]) == (2, 1)
    for i in (1, 2):
        Image.new("L", (48, 32)).save(tmp_path / f"masks/{i}.png")
    with pytest.raises(SourceError, match=r"no mask of .* has foreground"):
        evaluate(model, settings, mesh(1))


def test_attention_that_is_not_finite_is_refused(model, settings):
    """Every comparison with NaN is false: the masks would be empty, and the score 0."""
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), model.params)
    with pytest.raises(ConfigError, match="attention of tiny is not finite; its weights"):
        evaluate(dataclasses.replace(model, params=broken), settings, mesh(1))


def test_mistakes(model, settings):
    with pytest.raises(ConfigError, match="mass is 0, wanted above 0 and at most 1"):
        evaluate(model, dataclasses.replace(settings, mass=0), mesh(1))
    with pytest.raises(ConfigError, match="layer 2 is asked of tiny, which has 2 blocks"):
        evaluate(model, dataclasses.replace(settings, layer=2), mesh(1))
    with pytest.raises(ConfigError, match="is a ConvNeXt, which has no attention"):
        evaluate(convnext(), settings, mesh(1))
