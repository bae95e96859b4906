import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dinov3_jax.models.depth import bin_depths, bin_mean, depth, random_depth_head
from dinov3_jax.models.dpt import CHMV2, SYNTHMIX, Deconv, DptHead, resize
from dinov3_jax.models.model import random_model
from tests.models.dpt import TINY, drawn_head
from tests.models.modules import build, student
from tests.models.test_model import CONVNEXT
from tests.reference import det


@pytest.fixture(scope="module")
def model():
    return random_model("tiny", student(depth=4))


@pytest.mark.parametrize("name", TINY)
def test_metres_of_each_pixel(model, name):
    """Even and odd grids; an image of the batch does not see the others."""
    config, head = TINY[name], drawn_head(TINY[name])
    for height, width in ((16, 8), (12, 20)):
        images = jnp.asarray(det(2, height, width, 3))
        got = depth(model, head, images)
        assert got.shape == (2, height, width)
        assert got.dtype == jnp.float32
        assert bin_depths(config)[0] < got.min() < got.max() < config.max_depth
        # rtol: float32 sums over other batch sizes.
        np.testing.assert_allclose(got[1:], depth(model, head, images[1:]), rtol=1e-4)


def test_only_the_readout_sees_cls(model):
    """What the two heads make of another CLS token: nothing, or another map."""
    for name, config in TINY.items():
        head, images = drawn_head(config), jnp.asarray(det(1, 8, 8, 3))
        first = model.intermediate_layers(images, config.layers)
        changed = tuple(x._replace(cls=x.cls + 1.0) for x in first)
        graph = nnx.graphdef(
            nnx.eval_shape(lambda config=config: DptHead(config, rngs=nnx.Rngs(0)))
        )
        module = nnx.merge(graph, head.params)
        same = np.array_equal(module(first, (2, 2)), module(changed, (2, 2)))
        assert same == (name == "synthmix")


def test_a_fresh_head_runs(model):
    metres = depth(model, random_depth_head(TINY["synthmix"]), jnp.asarray(det(1, 8, 8, 3)))
    assert np.isfinite(metres).all()


def test_a_backbone_of_another_kind_is_refused(model):
    images = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match=r"of width 24; tiny has 4 of width 16: give the backbone"):
        depth(model, drawn_head(dataclasses.replace(TINY["chmv2"], backbone_dim=24)), images)
    with pytest.raises(ValueError, match=r"reads blocks \(0, 1, 2, 4\)"):
        depth(model, drawn_head(dataclasses.replace(TINY["chmv2"], layers=(0, 1, 2, 4))), images)
    with pytest.raises(ValueError, match="tiny has no blocks"):
        depth(random_model("tiny", CONVNEXT), drawn_head(TINY["chmv2"]), images)


def test_bins():
    """Of logits none of which is positive: the mean of all bins, (min + max) / 2 when uniform."""
    for config, mean in ((SYNTHMIX, 50.0005), (CHMV2, bin_depths(CHMV2).mean())):
        # rtol: float32 sums of 256 terms.
        np.testing.assert_allclose(bin_mean(jnp.full((2, 256), -1.0), config), mean, rtol=1e-5)
        ends = [config.min_depth * (8 if config is CHMV2 else 1), config.max_depth]
        np.testing.assert_allclose(bin_depths(config)[[0, -1]], ends, rtol=1e-6)
        assert (np.diff(bin_depths(config)) > 0).all()
        # One bin far above the ε of all others.
        peak = bin_mean(1e7 * jnp.eye(256)[37], config)
        np.testing.assert_allclose(peak, bin_depths(config)[37], rtol=1e-4)


@pytest.mark.parametrize("align_corners", [True, False])
def test_resize_keeps_planes(align_corners):
    """Of a plane, corners aligned: the same plane; else inside the outermost cell centres."""
    y, x = np.mgrid[:5, :7].astype(np.float32)
    plane = jnp.asarray(2 * y - 3 * x)[None, ..., None]
    got = np.asarray(resize(plane, (10, 21), align_corners=align_corners))[0, ..., 0]
    if align_corners:
        rows, columns = np.linspace(0, 4, 10), np.linspace(0, 6, 21)
    else:
        rows, columns = ((np.arange(n) + 0.5) * m / n - 0.5 for n, m in ((10, 5), (21, 7)))
        rows, columns = np.clip(rows, 0, 4), np.clip(columns, 0, 6)
    # atol: float32 positions, slopes of 3.
    np.testing.assert_allclose(got, 2 * rows[:, None] - 3 * columns, atol=1e-5)


def test_resize_without_corners_equals_jax():
    x = jnp.asarray(det(2, 5, 8, 3))
    for size in ((6, 4), (3, 16), (5, 9)):
        wanted = jax.image.resize(x, (2, *size, 3), "linear", antialias=False)
        # atol: float32 positions against normalised float32 weights, values below 1.
        np.testing.assert_allclose(resize(x, size, align_corners=False), wanted, atol=1e-5)


@pytest.mark.parametrize("size", [2, 4])
def test_deconv_equals_lax(size):
    module = build(lambda rngs: Deconv(6, size, rngs=rngs))
    x = jnp.asarray(det(2, 3, 4, 6))
    kernel = module.kernel[...][::-1, ::-1]  # lax turns a window the other way round
    wanted = jax.lax.conv_transpose(
        x, kernel, (size, size), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    # atol: float32 sums of 6 products.
    np.testing.assert_allclose(module(x), wanted + module.bias[...], atol=1e-6)
