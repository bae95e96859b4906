import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from configs import base
from dinov3_jax.config import ConfigError, ConvNextConfig
from dinov3_jax.convert.official import to_official
from dinov3_jax.models import build, presets
from dinov3_jax.recipe import from_config_dict


def student(arch, **changes):
    """The base recipe's student of another size, not yet completed."""
    return dataclasses.replace(from_config_dict(base.get_config()).student, arch=arch, **changes)


def shapes(config):
    """The parameter tree of a completed student, without memory."""
    model = nnx.eval_shape(lambda: build.backbone(config, nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model))


# Parameters and, where a checkpoint is published, the number of its tensors.
SIZES = {
    "vit_small": (21_601_152, 188),
    "vit_small_plus": (28_697_472, 212),
    "vit_base": (85_669_632, 188),
    "vit_large": (303_154_176, 368),
    "vit_large_plus": (403_915_776, 416),
    "vit_so400m": (415_411_200, None),
    "vit_huge2": (630_754_560, None),
    "vit_huge_plus": (840_633_600, 552),
    "vit_giant2": (1_134_577_152, None),
    "vit_7b": (6_716_043_264, 610),
    "convnext_tiny": (27_820_128, 182),
    "convnext_small": (49_454_688, 344),
    "convnext_base": (87_566_464, 344),
    "convnext_large": (196_230_336, 344),
}


@pytest.mark.parametrize("arch", SIZES)
def test_published_sizes(arch):
    untied = arch == "vit_7b"
    config = presets.complete(student(arch, untie_global_and_local_cls_norm=untied))
    tree = shapes(config)
    parameters, tensors = SIZES[arch]
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == parameters
    if tensors is not None:
        # Broadcast zeros: the names of 7 billion parameters without their memory.
        names = to_official(jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), tree))
        buffers = 0
        if not isinstance(config, ConvNextConfig):  # RoPE periods, k bias masks
            buffers = 1 + (config.depth if config.qkv_bias else 0)
        assert len(names) + buffers == tensors


def test_every_preset_is_tested_or_our_own():
    names = presets.PRESETS.keys() | presets.CONVNEXT_PRESETS.keys()
    assert names - SIZES.keys() == {"vit_tiny"}


def test_satellite_vit_large_has_one_more_norm():
    config = presets.complete(student("vit_large", untie_global_and_local_cls_norm=True))
    assert sum(x.size for x in jax.tree.leaves(shapes(config))) == 303_154_176 + 2_048


def test_giant_with_gated_ffn():
    changes = dict(ffn="swiglu", ffn_align=64)
    config = presets.complete(student("vit_giant2", **changes))
    assert presets.ffn_hidden(config) == 4096
    assert sum(x.size for x in jax.tree.leaves(shapes(config))) == 1_134_659_072


@pytest.mark.parametrize(
    ("sizes", "hidden"),
    [
        (dict(embed_dim=384, ffn_ratio=6.0, ffn_align=8), 1536),
        (dict(embed_dim=1280, ffn_ratio=6.0, ffn_align=8), 5120),
        (dict(embed_dim=4096, ffn_ratio=3.0, ffn_align=64), 8192),
        (dict(embed_dim=1024, ffn_ratio=4.0, ffn_align=64), 2752),
    ],
)
def test_gated_hidden_widths(sizes, hidden):
    assert presets.ffn_hidden(student("vit_small", ffn="swiglu", **sizes)) == hidden


def test_so400m_hidden_width():
    assert presets.ffn_hidden(presets.complete(student("vit_so400m"))) == 4352


def test_explicit_sizes_win_over_the_preset():
    config = presets.complete(student("vit_base", depth=3, qkv_bias=False))
    assert (config.depth, config.qkv_bias, config.embed_dim) == (3, False, 768)
    assert presets.complete(config) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(arch="vit_huge"), "student.arch is 'vit_huge', wanted one of vit_tiny, vit_small"),
        (dict(num_heads=5), "embed_dim 384 over student.num_heads 5"),
        (dict(embed_dim=36, num_heads=6), "a multiple of 4"),
        (dict(ffn="gelu"), r"student.ffn is 'gelu', wanted one of \('mlp', 'swiglu'\)"),
        (dict(norm="batchnorm"), "student.norm is 'batchnorm'"),
        (dict(remat="some"), "student.remat is 'some', wanted .* some of qkv, attention, proj"),
        (dict(remat_blocks=13), "student.remat_blocks is 13, wanted 0 to 12"),
        (dict(dtype="float16"), "student.dtype is 'float16'"),
        (dict(attention="flash"), "student.attention is 'flash', wanted one of .*'auto', 'xla'"),
        (dict(attention="cudnn", dtype="float32"), "'cudnn', which has no float32: set student.dt"),
        (dict(fp8=True, embed_dim=40, num_heads=2), "multiples of 16, .* embed_dim is 40"),
        (dict(fp8=True, ffn_ratio=2.02), "the feed-forward layers' width 775"),
        (dict(rope_dtype="int8"), "student.rope_dtype is 'int8'"),
        (dict(rope_normalize="mean"), "student.rope_normalize is 'mean'"),
        (dict(rope_base=None), "either student.rope_base or both"),
        (dict(rope_base=None, rope_min_period=1.0), "either student.rope_base or both"),
        (dict(rope_min_period=1.0, rope_max_period=9.0), "either student.rope_base or both"),
        (dict(rope_max_period=9.0), "either student.rope_base or both"),
        (dict(drop_path=1.0), r"student.drop_path is 1.0, wanted \[0, 1\)"),
        (dict(stage_depths=(1, 1, 1, 1)), r"stage_depths is \(1, 1, 1, 1\); vit_small has no such"),
        (dict(stage_dims=(8, 8, 8, 8)), r"stage_dims is \(8, 8, 8, 8\); vit_small has no such"),
    ],
)
def test_misfits(changes, message):
    with pytest.raises(ConfigError, match=message):
        presets.complete(dataclasses.replace(student("vit_small"), **changes))


def test_periods_instead_of_a_base():
    config = student("vit_small", rope_base=None, rope_min_period=1.0, rope_max_period=9.0)
    assert presets.complete(config).rope_base is None


def test_convnext_is_complete_with_its_own_keys():
    config = presets.complete(student("convnext_tiny", remat="full"))
    assert config == ConvNextConfig(
        "convnext_tiny", 16, 3, (3, 3, 9, 3), (96, 192, 384, 768), "bfloat16", "full"
    )
    assert config.embed_dim == 768


def test_explicit_stages_win_over_the_preset():
    config = presets.complete(student("convnext_base", stage_dims=(8, 16, 16, 24)))
    assert (config.stage_depths, config.stage_dims) == ((3, 3, 27, 3), (8, 16, 16, 24))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(arch="convnext_huge"), "'convnext_huge', wanted one of .*, convnext_tiny,"),
        (dict(drop_path=0.1), "student.drop_path is 0.1; convnext_tiny .* set it to 0"),
        (dict(fp8=True), "student.fp8 is True; convnext_tiny has no float8, set it to False"),
        (dict(embed_dim=768), "embed_dim is 768; convnext_tiny has no such size, set it to None"),
        (dict(qkv_bias=False), "student.qkv_bias is False"),
        (dict(stage_depths=(3, 3, 0, 3)), r"stage_depths is \(3, 3, 0, 3\), wanted at least 1"),
        (dict(stage_dims=(8, 8, 8, 0)), r"stage_dims is \(8, 8, 8, 0\), wanted at least 1 each"),
        (dict(remat="some"), "student.remat is 'some'"),
        (dict(dtype="float16"), "student.dtype is 'float16'"),
    ],
)
def test_convnext_misfits(changes, message):
    with pytest.raises(ConfigError, match=message):
        presets.complete(dataclasses.replace(student("convnext_tiny"), **changes))


def test_errors_name_the_section():
    with pytest.raises(ConfigError, match=r"^distill\.backbone\.drop_path is 1\.0"):
        presets.complete(student("vit_small", drop_path=1.0), section="distill.backbone")
