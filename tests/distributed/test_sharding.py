import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec as P

from dinov3_jax import checkpoint
from dinov3_jax.config import MeshConfig
from dinov3_jax.distributed import sharding
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.models import build, presets
from dinov3_jax.train.state import init_state, state_shardings
from tests import collectives, regenerate
from tests.tiny import tiny_config

FSDP = MeshConfig(1, 8, 1, 1)


@pytest.mark.parametrize("arch", presets.PRESETS)
@pytest.mark.parametrize("untied", [False, True])
def test_every_parameter_of_every_vit_has_a_rule(arch, untied):
    config = dataclasses.replace(
        tiny_config().student, arch=arch, embed_dim=None, depth=None, num_heads=None,
        untie_cls_and_patch_norms=untied, untie_global_and_local_cls_norm=untied,
    )  # fmt: skip
    check_rules(config)


@pytest.mark.parametrize("arch", presets.CONVNEXT_PRESETS)
def test_every_parameter_of_every_convnext_has_a_rule(arch):
    sizes = dict(embed_dim=None, depth=None, num_heads=None)
    check_rules(dataclasses.replace(tiny_config().student, arch=arch, **sizes))


def check_rules(config):
    complete = presets.complete(config)
    model = nnx.eval_shape(lambda: build.backbone(complete, nnx.Rngs(0)))
    params = {"backbone": nnx.to_pure_dict(nnx.state(model))}
    specs = sharding.param_specs(params, make_mesh(FSDP))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for spec, (path, leaf) in zip(_leaves(specs), leaves, strict=True):
        assert len(spec) <= leaf.ndim
        name = sharding.path_name(path)
        # A matrix: each device keeps an eighth.
        if leaf.size // leaf.shape[0] >= 2**14 and "depthwise" not in name:
            assert spec.count("fsdp") == 1, name


def _leaves(specs):
    return jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, P))


def test_heads_have_rules():
    shapes = jax.eval_shape(lambda: build.init_params(tiny_config(), jax.random.key(0)))
    specs = sharding.param_specs(shapes, make_mesh(FSDP))
    for name in ("dino_head", "ibot_head"):
        assert specs[name]["prototypes"]["kernel"] == P(None, "fsdp")
        assert specs[name]["fc1"]["kernel"] == P(None, "fsdp")


def test_table_of_the_7b():
    """Golden: python -m tests.regenerate writes it again and prints what changed."""
    regenerate.check("sharding_vit_7b_fsdp8.txt")


def test_unmatched_parameter_is_named():
    tree = {"backbone": {"blocks": {"attn": {"rotor": {"kernel": jnp.zeros((2, 8, 8))}}}}}
    with pytest.raises(
        ValueError, match="no sharding rule for parameter backbone/blocks/attn/rotor/kernel"
    ):
        sharding.param_specs(tree, make_mesh(FSDP))


def test_axes_that_do_not_divide_stay_whole():
    tree = {"dino_head": {"fc1": {"kernel": jnp.zeros((16, 20))}}}
    assert sharding.param_specs(tree, make_mesh(FSDP))["dino_head"]["fc1"]["kernel"] == P(
        None, None
    )
    four = sharding.param_specs(tree, make_mesh(MeshConfig(2, 4, 1, 1)))
    assert four["dino_head"]["fc1"]["kernel"] == P(None, "fsdp")


def test_tensor_axis_splits_the_wide_dimension():
    shapes = jax.eval_shape(lambda: build.init_params(tiny_config(), jax.random.key(0)))
    blocks = sharding.param_specs(shapes, make_mesh(MeshConfig(1, 4, 1, 2)))["backbone"]["blocks"]
    assert blocks["attn"]["qkv"]["kernel"] == P(None, "fsdp", "tensor")
    assert blocks["attn"]["proj"]["kernel"] == P(None, "tensor", "fsdp")
    assert blocks["ffn"]["fc2"]["kernel"] == P(None, "tensor", "fsdp")


def test_path_name():
    tree = {"a": [jnp.zeros(1), {"b": jnp.zeros(1)}]}
    paths = [sharding.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    assert paths == ["a/0", "a/1/b"]


def test_named_keeps_the_tree():
    mesh = make_mesh(FSDP)
    got = sharding.named({"a": P("fsdp"), "b": {"c": P()}}, mesh)
    assert got == {"a": NamedSharding(mesh, P("fsdp")), "b": {"c": NamedSharding(mesh, P())}}


def test_shard_batch_without_a_mesh_is_the_identity():
    x = jnp.ones((3, 2))
    assert sharding.shard_batch(x) is x


def test_shard_batch_constrains_axis_0():
    mesh = make_mesh(MeshConfig(2, 4, 1, 1))
    with jax.set_mesh(mesh):
        out = jax.jit(lambda: sharding.shard_batch(jnp.ones((16, 2))))()
    assert {shard.data.shape for shard in out.addressable_shards} == {(2, 2)}
    np.testing.assert_array_equal(out, 1.0)


@pytest.mark.parametrize("sizes", [(1, 8, 1, 1), (1, 4, 2, 1)])
def test_evaluation_gathers_weights_and_reduces_nothing(sizes):
    """Outside ``distributed.fsdp`` the compiler places what is computed, by ``shard_batch``."""
    config, mesh = tiny_config(), make_mesh(MeshConfig(*sizes))
    networks = build.networks(config)

    def forward(teacher, images):
        out = nnx.merge(networks.backbone, teacher["backbone"])(images)
        return out, nnx.merge(networks.dino_head, teacher["dino_head"])(out.cls)

    shapes = jax.eval_shape(lambda: init_state(config, jax.random.key(0))).teacher
    teacher = checkpoint.abstract(shapes, state_shardings(config, mesh).teacher)
    images = jax.ShapeDtypeStruct(
        (16, 16, 16, 3), np.float32, sharding=sharding.batch_sharding(mesh)
    )
    with jax.set_mesh(mesh):
        program = jax.jit(forward).lower(teacher, images).compile().as_text()
    assert {kind for kind, _ in collectives.find(program)} == {"all-gather"}
