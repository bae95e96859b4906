import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dinov3_jax.models import build
from tests.tiny import tiny_config

CONFIG = tiny_config(**{"student.untie_global_and_local_cls_norm": True})


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
