import jax
import numpy as np
import pytest

from dinov3_jax.convert import official
from dinov3_jax.models import build
from tests.tiny import tiny_config

VARIANTS = {
    "mlp": {},
    "swiglu": {"student.ffn": "swiglu", "student.ffn_ratio": 6.0},
    "no biases": {
        "student.qkv_bias": False, "student.proj_bias": False, "student.ffn_bias": False,
    },
    "no LayerScale": {"student.layerscale": None},
    "no storage tokens": {"student.storage_tokens": 0},
    "all norms": {
        "student.untie_cls_and_patch_norms": True, "student.untie_global_and_local_cls_norm": True,
    },
    "rmsnorm": {"student.norm": "rmsnorm"},
    "one-layer head": {"dino.head.layers": 1},
    "convnext": {
        "student.arch": "convnext_tiny",
        "student.embed_dim": None, "student.depth": None, "student.num_heads": None,
        "student.stage_depths": (1, 1, 2, 1), "student.stage_dims": (8, 12, 16, 24),
    },
}  # fmt: skip


def parameters(**changes):
    """Random numbers in the shape of the tiny model."""
    config = tiny_config(**changes)
    shapes = jax.eval_shape(lambda: build.init_params(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def params():
    return parameters()


@pytest.mark.parametrize("name", VARIANTS)
def test_there_and_back(name):
    params = parameters(**VARIANTS[name])
    state = official.to_official(params)
    jax.tree.map(np.testing.assert_array_equal, official.from_official(state, params), params)
    unique = [x for name, x in state.items() if "norms.3." not in name]
    assert sum(x.size for x in unique) == sum(x.size for x in jax.tree.leaves(params))


def test_a_backbone_alone_has_no_prefix(params):
    alone = official.to_official(params["backbone"])
    whole = official.to_official(params)
    assert set(alone) == {
        name.removeprefix("backbone.") for name in whole if name.startswith("backbone.")
    }
    back = official.from_official(alone, params["backbone"])
    jax.tree.map(np.testing.assert_array_equal, back, params["backbone"])


def test_published_names_and_shapes(params):
    """Section by section: D 16, F 64, two blocks, patch 4, heads as in the tiny recipe."""
    state = official.to_official(params)
    block = {
        "norm1.weight": (16,), "norm1.bias": (16,),
        "attn.qkv.weight": (48, 16), "attn.qkv.bias": (48,),
        "attn.proj.weight": (16, 16), "attn.proj.bias": (16,),
        "ls1.gamma": (16,), "norm2.weight": (16,), "norm2.bias": (16,),
        "mlp.fc1.weight": (64, 16), "mlp.fc1.bias": (64,),
        "mlp.fc2.weight": (16, 64), "mlp.fc2.bias": (16,), "ls2.gamma": (16,),
    }  # fmt: skip
    wanted = {f"backbone.blocks.{i}.{k}": shape for i in (0, 1) for k, shape in block.items()}
    wanted |= {
        "backbone.cls_token": (1, 1, 16),
        "backbone.storage_tokens": (1, 2, 16),
        "backbone.mask_token": (1, 16),
        "backbone.patch_embed.proj.weight": (16, 3, 4, 4),
        "backbone.patch_embed.proj.bias": (16,),
        "backbone.norm.weight": (16,),
        "backbone.norm.bias": (16,),
    }
    for head, (hidden, bottleneck, prototypes) in {
        "dino_head": (24, 16, 32),
        "ibot_head": (16, 8, 24),
    }.items():
        wanted |= {
            f"{head}.mlp.0.weight": (hidden, 16), f"{head}.mlp.0.bias": (hidden,),
            f"{head}.mlp.2.weight": (hidden, hidden), f"{head}.mlp.2.bias": (hidden,),
            f"{head}.mlp.4.weight": (bottleneck, hidden), f"{head}.mlp.4.bias": (bottleneck,),
            f"{head}.last_layer.weight": (prototypes, bottleneck),
        }  # fmt: skip
    assert {name: value.shape for name, value in state.items()} == wanted


def test_gated_names():
    state = official.to_official(parameters(**VARIANTS["swiglu"])["backbone"])
    assert state["blocks.0.mlp.w1.weight"].shape == (64, 16)
    assert state["blocks.0.mlp.w2.weight"].shape == (64, 16)
    assert state["blocks.0.mlp.w3.weight"].shape == (16, 64)


def test_convnext_names_and_shapes():
    state = official.to_official(parameters(**VARIANTS["convnext"])["backbone"])
    norms = ("norm.weight", "norm.bias", "norms.3.weight", "norms.3.bias")
    wanted = dict.fromkeys(norms, (24,))
    # The stem is conv, norm; the others are norm, conv.
    dims = (3, 8, 12, 16, 24)
    for stage, blocks in enumerate((1, 1, 2, 1)):
        before, dim = dims[stage : stage + 2]
        conv, norm, side, width = (0, 1, 4, dim) if stage == 0 else (1, 0, 2, before)
        wanted |= {
            f"downsample_layers.{stage}.{conv}.weight": (dim, before, side, side),
            f"downsample_layers.{stage}.{conv}.bias": (dim,),
            f"downsample_layers.{stage}.{norm}.weight": (width,),
            f"downsample_layers.{stage}.{norm}.bias": (width,),
        }
        block = {
            "gamma": (dim,), "dwconv.weight": (dim, 1, 7, 7), "dwconv.bias": (dim,),
            "norm.weight": (dim,), "norm.bias": (dim,),
            "pwconv1.weight": (4 * dim, dim), "pwconv1.bias": (4 * dim,),
            "pwconv2.weight": (dim, 4 * dim), "pwconv2.bias": (dim,),
        }  # fmt: skip
        wanted |= {f"stages.{stage}.{i}.{k}": v for i in range(blocks) for k, v in block.items()}
    assert {name: value.shape for name, value in state.items()} == wanted


@pytest.mark.parametrize("network", ["", "backbone."])
def test_the_second_name_of_a_convnexts_norm(network):
    params = parameters(**VARIANTS["convnext"])
    params = params if network else params["backbone"]
    state = official.to_official(params)
    first, second = f"{network}norm.weight", f"{network}norms.3.weight"
    np.testing.assert_array_equal(state[second], state[first])
    alone = {name: value for name, value in state.items() if "norms.3." not in name}
    jax.tree.map(np.testing.assert_array_equal, official.from_official(alone, params), params)
    state[second] = state[second] + 1
    with pytest.raises(ValueError, match=f"{second} differs from {first}"):
        official.from_official(state, params)


def test_layouts(params):
    state, backbone = official.to_official(params), params["backbone"]
    qkv = backbone["blocks"]["attn"]["qkv"]["kernel"][1]
    # Rows of the official matrix: q, k, v of all heads.
    np.testing.assert_array_equal(
        state["backbone.blocks.1.attn.qkv.weight"][16:32], qkv[:, 16:32].T
    )
    kernel = backbone["patch_embed"]["kernel"]
    assert state["backbone.patch_embed.proj.weight"][5, 2, 1, 3] == kernel[1, 3, 2, 5]


def test_layouts_of_a_convnext():
    backbone = parameters(**VARIANTS["convnext"])["backbone"]
    state, stage = official.to_official(backbone), backbone["stage2"]
    depthwise = stage["blocks"]["depthwise"]["kernel"]
    assert state["stages.2.1.dwconv.weight"][5, 0, 6, 2] == depthwise[1, 6, 2, 0, 5]
    kernel = stage["downsample"]["conv"]["kernel"]
    assert state["downsample_layers.2.1.weight"][5, 2, 1, 0] == kernel[1, 0, 2, 5]


def test_buffers_are_ignored(params):
    state = official.to_official(params["backbone"])
    state["rope_embed.periods"] = np.ones(2)
    state["blocks.0.attn.qkv.bias_mask"] = np.ones(48)
    state["blocks.1.attn.qkv.bias_mask"] = np.ones(48)
    back = official.from_official(state, params["backbone"])
    jax.tree.map(np.testing.assert_array_equal, back, params["backbone"])


def test_every_misfit_is_named(params):
    state = official.to_official(params["backbone"])
    del state["norm.bias"]
    state["norm.variance"] = np.ones(16)
    with pytest.raises(ValueError, match=r"norm\.bias is missing.*norm\.variance is left over"):
        official.from_official(state, params["backbone"])


def test_second_names_are_of_a_convnext_only(params):
    state = official.to_official(params["backbone"])
    state["norms.3.weight"] = state["norm.weight"]
    with pytest.raises(ValueError, match=r"norms\.3\.weight is left over"):
        official.from_official(state, params["backbone"])


def test_a_model_of_another_depth(params):
    deeper = official.to_official(parameters(**{"student.depth": 3})["backbone"])
    with pytest.raises(ValueError, match=r"blocks\.2\.attn\.qkv\.weight is left over"):
        official.from_official(deeper, params["backbone"])
    shallow = official.to_official(parameters(**{"student.depth": 1})["backbone"])
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.qkv\.weight is missing"):
        official.from_official(shallow, params["backbone"])


@pytest.mark.parametrize(
    ("name", "shape", "got"),
    [
        (
            "patch_embed.proj.weight",
            (16, 3, 8, 8),
            r"\(8, 8, 3, 16\), the model has \(4, 4, 3, 16\)",
        ),
        ("cls_token", (1, 1, 8), r"\(8,\), the model has \(16,\) at cls_token"),
        ("storage_tokens", (1, 4, 16), r"\(4, 16\), the model has \(2, 16\)"),
    ],
)
def test_another_shape(params, name, shape, got):
    state = official.to_official(params["backbone"]) | {name: np.zeros(shape, np.float32)}
    with pytest.raises(ValueError, match=f"{name} gives {got}"):
        official.from_official(state, params["backbone"])


def test_flatten_and_unflatten():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert official.flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert official.unflatten(official.flatten(tree)) == tree


def test_jax_takes_the_leaves_over_without_a_copy(params):
    """Else loading a model would need its memory once more."""
    back = official.from_official(official.to_official(params), params)
    for leaf in jax.tree.leaves(back):
        on_device = jax.device_put(leaf, jax.devices("cpu")[0])
        assert on_device.unsafe_buffer_pointer() == leaf.ctypes.data
