import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dinov3_jax.config import ConfigError, DistillConfig, HeadConfig
from dinov3_jax.models import build, presets
from dinov3_jax.models.convnext import ConvNext
from dinov3_jax.models.vit import VisionTransformer
from tests.tiny import tiny_config

CONFIG = tiny_config(**{"student.untie_global_and_local_cls_norm": True})
CONVNEXT = tiny_config(**{
    "student.arch": "convnext_tiny",
    "student.embed_dim": None, "student.depth": None, "student.num_heads": None,
    "student.stage_depths": (1, 1, 2, 1), "student.stage_dims": (8, 8, 16, 24),
})  # fmt: skip


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: build.init_params(CONFIG, key))(jax.random.key(0))


def test_graphs_and_parameters_fit(params):
    networks = build.networks(CONFIG)
    assert params.keys() == set(networks._fields)
    for name, graph in zip(networks._fields, networks):
        module = nnx.merge(graph, params[name])
        assert jax.tree.structure(nnx.to_pure_dict(nnx.state(module))) == jax.tree.structure(
            params[name]
        )
    backbone = nnx.merge(networks.backbone, params["backbone"])
    cls = backbone(jnp.zeros((1, 16, 16, 3))).cls
    assert nnx.merge(networks.dino_head, params["dino_head"])(cls).shape == (1, 32)
    assert nnx.merge(networks.ibot_head, params["ibot_head"])(cls).shape == (1, 24)


def test_parameters_are_float32_even_for_bfloat16_compute():
    config = tiny_config(**{"student.dtype": "bfloat16"})
    shapes = jax.eval_shape(lambda: build.init_params(config, jax.random.key(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_networks_hold_no_arrays():
    for graph in build.networks(CONFIG):
        assert not [x for x in jax.tree.leaves(graph) if isinstance(x, jax.Array)]


def test_initial_values(params):
    backbone = params["backbone"]
    np.testing.assert_array_equal(backbone["mask_token"], 0.0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("scale"):
            np.testing.assert_array_equal(leaf, 1.0)
        elif name.endswith("bias") and "patch_embed" not in name:
            np.testing.assert_array_equal(leaf, 0.0)
        elif name.endswith("gamma"):
            np.testing.assert_array_equal(leaf, CONFIG.student.layerscale)
    bound = 1 / np.sqrt(3 * 4**2)  # of a uniform draw, patch 4
    for leaf in backbone["patch_embed"].values():
        assert np.abs(leaf).max() <= bound
    assert np.abs(backbone["patch_embed"]["kernel"]).max() > 0.95 * bound


def test_blocks_and_heads_are_drawn_apart(params):
    qkv = params["backbone"]["blocks"]["attn"]["qkv"]["kernel"]
    assert qkv.shape == (2, 16, 48)
    assert (qkv[0] != qkv[1]).mean() > 0.99
    heads = [params[name]["fc1"]["kernel"][:, :16] for name in ("dino_head", "ibot_head")]
    assert (heads[0] != heads[1]).mean() > 0.99


def test_same_key_same_parameters(params):
    again = jax.jit(lambda key: build.init_params(CONFIG, key))
    jax.tree.map(np.testing.assert_array_equal, again(jax.random.key(0)), params)
    other = again(jax.random.key(1))
    assert (other["backbone"]["cls_token"] != params["backbone"]["cls_token"]).all()


@pytest.mark.parametrize(("config", "kind"), [(CONFIG, VisionTransformer), (CONVNEXT, ConvNext)])
def test_the_configuration_picks_the_backbone(config, kind):
    complete = presets.complete(config.student)
    module = nnx.eval_shape(lambda: build.backbone(complete, nnx.Rngs(0)))
    assert type(module) is kind
    assert module.config == complete


def test_heads_are_as_wide_as_the_last_stage():
    networks = build.networks(CONVNEXT)
    shapes = jax.eval_shape(lambda: build.init_params(CONVNEXT, jax.random.key(0)))

    def logits(params, images):
        cls = nnx.merge(networks.backbone, params["backbone"])(images).cls
        return nnx.merge(networks.dino_head, params["dino_head"])(cls)

    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    assert jax.eval_shape(logits, shapes, images).shape == (2, 32)
    assert shapes["ibot_head"]["fc1"]["kernel"].shape == (24, 16)


def test_the_frozen_teacher_has_its_own_sizes():
    """A ViT of 16 channels teaches a ConvNeXt of 24; the prototypes must agree, nothing else."""
    distill = DistillConfig(
        source="",
        step=None,
        backbone=CONFIG.student,
        dino_head=HeadConfig(32, 40, 8, 2),
        ibot_head=HeadConfig(24, 48, 8, 3),
        resolution_scale=1.0,
    )
    config = dataclasses.replace(CONVNEXT, distill=distill)
    teacher = jax.eval_shape(lambda: build.init_distill_params(config, jax.random.key(0)))
    assert teacher["dino_head"]["fc1"]["kernel"].shape == (16, 40)
    assert teacher["ibot_head"]["fc2"]["kernel"].shape == (48, 48)
    networks = build.distill_networks(config)
    assert networks.backbone == build.networks(CONFIG).backbone
    for graph, tree in zip(networks, teacher.values()):
        module = nnx.merge(graph, tree)
        assert jax.tree.structure(nnx.to_pure_dict(nnx.state(module))) == jax.tree.structure(tree)


def test_without_distillation_there_is_no_frozen_teacher():
    with pytest.raises(ConfigError, match=r"config\.distill is None"):
        build.distill_networks(CONFIG)
