"""Depth heads against PyTorch: transformers has the canopy head, the other is composed here."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax import heads
from dinov3_jax.convert.heads import dpt_from_official, dpt_from_transformers, dpt_to_official
from dinov3_jax.models.depth import DepthHead, depth, head_shapes
from dinov3_jax.models.dpt import Deconv, StoredNorm, resize
from dinov3_jax.models.model import random_model
from tests import parity
from tests.models.dpt import TINY, drawn_head
from tests.models.modules import build, student
from tests.reference import det

pytestmark = pytest.mark.parity

GRIDS = ((4, 6), (3, 5))  # of patches; odd sides are halved to ones that do not double back


def nchw(x):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(np.array(x, np.float32).transpose(0, 3, 1, 2).copy())


def nhwc(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def close(got, wanted):
    # Of the largest value: float32 sums of two frameworks.
    np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("grid", GRIDS)
def test_canopy_head_equals_transformers(grid):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config, sizes = student(depth=4, patch_size=16), TINY["chmv2"]
    vit = parity.theirs(config).config.to_dict() | {
        "out_indices": [i + 1 for i in sizes.layers],
        "reshape_hidden_states": True,
        "apply_layernorm": True,
        "return_class_token": True,
    }
    vit = {k: v for k, v in vit.items() if k not in ("out_features", "stage_names")}
    theirs = transformers.CHMv2ForDepthEstimation(
        transformers.CHMv2Config(
            backbone_config=vit,
            post_process_channels=list(sizes.channels),
            fusion_hidden_size=sizes.fusion_dim,
            head_hidden_size=sizes.hidden,
            number_output_channels=sizes.bins,
        )
    ).eval()
    state = parity.fill(theirs)
    backbone = {k.removeprefix("backbone."): v for k, v in state.items() if "backbone." in k}
    model = parity.our_model("tiny", config, backbone)
    params = dpt_from_official(dpt_from_transformers(state), head_shapes(sizes))
    images = det(2, 16 * grid[0], 16 * grid[1], 3)
    with torch.no_grad():
        wanted = theirs(nchw(images)).predicted_depth[:, None]
    wanted = torch.nn.functional.interpolate(
        wanted, images.shape[1:3], mode="bilinear", align_corners=True
    )
    head = DepthHead(sizes, jax.tree.map(jnp.asarray, params))
    close(depth(model, head, jnp.asarray(images)), wanted[:, 0].numpy())


@pytest.mark.parametrize("grid", GRIDS)
def test_synthmix_head_equals_a_composition_in_torch(grid):
    """Written from the head's description with the official names; theirs in float64."""
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    config = TINY["synthmix"]
    head = drawn_head(config)
    state = dpt_to_official(head.params)
    state = {key: torch.from_numpy(np.array(value)).double() for key, value in state.items()}
    model = random_model("tiny", student(depth=4))
    images = jnp.asarray(det(2, 4 * grid[0], 4 * grid[1], 3))

    def conv(x, name, **options):
        return f.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)

    def unit(x, name):
        hidden = conv(x.relu(), f"{name}.conv1.conv", padding=1)
        return x + conv(hidden.relu(), f"{name}.conv2.conv", padding=1)

    def double(x):
        return f.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    maps = []
    for i, features in enumerate(model.intermediate_layers(images, config.layers)):
        x = nchw(np.asarray(features.patch_tokens).reshape(2, *grid, -1)).double()
        norm = f"reassemble_blocks.batchnorm_layers.{i}."
        names = ("running_mean", "running_var", "weight", "bias")
        x = f.batch_norm(x, *(state[norm + name] for name in names))
        x = conv(x, f"reassemble_blocks.projects.{i}.conv")
        name = f"reassemble_blocks.resize_layers.{i}"
        if i < 2:
            weights = (state[f"{name}.weight"], state[f"{name}.bias"])
            x = f.conv_transpose2d(x, *weights, stride=(4, 2)[i])
        elif i == 3:
            x = conv(x, name, stride=2, padding=1)
        maps.append(conv(x, f"convs.{i}.conv", padding=1))
    fused = None
    for i in range(4):
        finer, block = maps[3 - i], f"fusion_blocks.{i}"
        if fused is None:
            fused = finer
        else:
            finer = f.interpolate(finer, fused.shape[2:], mode="bilinear", align_corners=False)
            fused = fused + unit(finer, f"{block}.res_conv_unit1")
        fused = conv(double(unit(fused, f"{block}.res_conv_unit2")), f"{block}.project.conv")
    x = conv(fused, "project.conv", padding=1).relu()
    x = double(conv(x, "conv_depth.head.0", padding=1))
    x = conv(conv(x, "conv_depth.head.2", padding=1).relu(), "conv_depth.head.4")
    weights = x.relu() + 0.1
    weights = weights / weights.sum(1, keepdim=True)
    bins = torch.linspace(config.min_depth, config.max_depth, config.bins).double()
    wanted = torch.einsum("nkhw,k->nhw", weights, bins)[:, None]
    wanted = f.interpolate(wanted, images.shape[1:3], mode="bilinear", align_corners=True)
    close(depth(model, head, images), wanted[:, 0].numpy())


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(10, 14), (6, 4), (1, 3), (5, 100)])
def test_resize_equals_torch(size, align_corners):
    torch = pytest.importorskip("torch")
    x = det(2, 5, 7, 3)
    wanted = torch.nn.functional.interpolate(
        nchw(x), size, mode="bilinear", align_corners=align_corners
    )
    close(resize(jnp.asarray(x), size, align_corners=align_corners), nhwc(wanted))


@pytest.mark.parametrize("size", [2, 4])
def test_deconv_equals_torch(size):
    torch = pytest.importorskip("torch")
    module, x = build(lambda rngs: Deconv(6, size, rngs=rngs)), det(2, 3, 4, 6)
    kernel = torch.from_numpy(np.array(module.kernel[...]).transpose(2, 3, 0, 1).copy())
    bias = torch.from_numpy(np.array(module.bias[...]))
    wanted = torch.nn.functional.conv_transpose2d(nchw(x), kernel, bias, stride=size)
    close(module(jnp.asarray(x)), nhwc(wanted))


def test_stored_norm_equals_torch():
    torch = pytest.importorskip("torch")
    theirs, x = torch.nn.BatchNorm2d(6).eval(), det(2, 3, 4, 6)
    rng, ours = np.random.default_rng(0), StoredNorm(6)
    for name, their_name in (
        ("scale", "weight"), ("bias", "bias"), ("mean", "running_mean"), ("var", "running_var"),
    ):  # fmt: skip
        value = rng.random(6, np.float32)
        getattr(theirs, their_name).data = torch.from_numpy(value)
        setattr(ours, name, type(ours.scale)(jnp.asarray(value)))
    close(ours(jnp.asarray(x)), nhwc(theirs(nchw(x))))


def test_a_head_of_a_pth_file(tmp_path):
    torch = pytest.importorskip("torch")
    head = drawn_head(TINY["synthmix"])
    state = dpt_to_official(head.params)
    state = {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
    torch.save(state, tmp_path / "head.pth")
    got = heads.load_depth_head(head.config, tmp_path / "head.pth")
    jax.tree.map(np.testing.assert_array_equal, got.params, head.params)
    torch.save({"model": state}, tmp_path / "nested.pth")
    with pytest.raises(ValueError, match=r"not a flat file of tensors; it also holds \['model'\]"):
        heads.load_depth_head(head.config, tmp_path / "nested.pth")


def test_no_name_of_transformers_stays():
    """The tables meet in the official names: none of transformers' is left over."""
    names = dpt_from_transformers({"head.convs.0.weight": 0, "backbone.layer.0.norm1.weight": 0})
    assert not [name for name in names if re.match(r"head\.|backbone", name)]
