"""config.json and preprocessor_config.json of transformers <-> our configuration."""

import dataclasses
from typing import Any

from dinov3_jax.config import CompleteVitConfig, ConvNextConfig
from dinov3_jax.convert.official import WeightsError
from dinov3_jax.convert.released import vit_section
from dinov3_jax.models import presets

# Their key -> (ours, the value that a file without the key means).
_VIT = {
    "patch_size": ("patch_size", 16),
    "num_channels": ("in_channels", 3),
    "hidden_size": ("embed_dim", 384),
    "num_hidden_layers": ("depth", 12),
    "num_attention_heads": ("num_heads", 6),
    "query_bias": ("qkv_bias", True),
    "proj_bias": ("proj_bias", True),
    "mlp_bias": ("ffn_bias", True),
    "layer_norm_eps": ("norm_eps", 1e-5),
    "num_register_tokens": ("storage_tokens", 0),
    "rope_theta": ("rope_base", 100.0),
}
_CONVNEXT = {
    "num_channels": ("in_channels", 3),
    "depths": ("stage_depths", (3, 3, 9, 3)),
    "hidden_sizes": ("stage_dims", (96, 192, 384, 768)),
}
# What their ViT has no key for.
_ONLY = {
    "norm": "layernorm",
    "rope_normalize": "separate",
    "untie_cls_and_patch_norms": False,
    "mask_k_bias": True,
}


def to_config(config: CompleteVitConfig | ConvNextConfig) -> dict[str, Any]:
    """Their config.json; ``WeightsError`` for a backbone that transformers cannot express."""
    if isinstance(config, ConvNextConfig):
        theirs = {key: getattr(config, ours) for key, (ours, _) in _CONVNEXT.items()}
        return {
            "model_type": "dinov3_convnext",
            "architectures": ["DINOv3ConvNextModel"],
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "dtype": "float32",
            **theirs,
        }
    wrong = [f"{k} {getattr(config, k)!r}" for k, v in _ONLY.items() if getattr(config, k) != v]
    wrong += ["rope_base None"] if config.rope_base is None else []
    if wrong:
        raise WeightsError(
            f"transformers has no DINOv3 ViT with {', '.join(wrong)}; convert to 'official' or "
            "'orbax'"
        )
    gated = config.ffn == "swiglu"
    return {
        "model_type": "dinov3_vit",
        "architectures": ["DINOv3ViTModel"],
        "hidden_act": "silu" if gated else "gelu",
        "use_gated_mlp": gated,
        "intermediate_size": presets.ffn_hidden(config),
        "key_bias": False,
        "value_bias": config.qkv_bias,
        "image_size": 224,
        "pos_embed_rescale": config.rope_rescale,
        "dtype": "float32",
        **{key: getattr(config, ours) for key, (ours, _) in _VIT.items()},
    }


def from_config(theirs: dict[str, Any]) -> CompleteVitConfig | ConvNextConfig:
    """The configuration that a config.json of transformers describes, computing in float32."""
    kind = theirs.get("model_type")
    if kind == "dinov3_convnext":
        given = {ours: theirs.get(key, value) for key, (ours, value) in _CONVNEXT.items()}
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        arch = next(
            (
                arch
                for arch, sizes in presets.CONVNEXT_PRESETS.items()
                if all(given[key] == value for key, value in sizes.items())
            ),
            "convnext_tiny",  # with sizes of its own
        )
        config = presets.complete(vit_section(arch, **given), section="config.json")
        _check(theirs, "layer_norm_eps", 1e-6)
        _check(theirs, "hidden_act", "gelu")
        return config
    if kind != "dinov3_vit":
        raise WeightsError(
            f"config.json is of a model of type {kind!r}, wanted 'dinov3_vit' or 'dinov3_convnext'"
        )
    given = {ours: theirs.get(key, value) for key, (ours, value) in _VIT.items()}
    gated = theirs.get("use_gated_mlp", False)
    _check(theirs, "hidden_act", "silu" if gated else "gelu")
    _check(theirs, "key_bias", False)
    _check(theirs, "value_bias", given["qkv_bias"])
    dim, hidden = given["embed_dim"], theirs.get("intermediate_size", 1536)
    sizes = dict(
        ffn="swiglu" if gated else "mlp",
        ffn_ratio=hidden * (1.5 if gated else 1.0) / dim,
        ffn_align=8 if hidden % 8 == 0 else 1,
    )
    arch = next((a for a, p in presets.PRESETS.items() if p["embed_dim"] == dim), "vit_small")
    section = vit_section(arch, **given, **sizes)
    config = presets.complete(section, section="config.json")
    assert isinstance(config, CompleteVitConfig)
    if presets.ffn_hidden(config) != hidden:
        # A ratio whose product with D fell below a whole number.
        config = dataclasses.replace(config, ffn_ratio=(hidden + 0.5) * (1.5 if gated else 1) / dim)
    if presets.ffn_hidden(config) != hidden:
        raise WeightsError(f"no feed-forward layer of width {hidden} can be made of width {dim}")
    return config


def to_preprocessor(mean: tuple[float, ...], std: tuple[float, ...], side: int) -> dict[str, Any]:
    """Their preprocessor_config.json: squares of ``side`` pixels, bilinear."""
    return {
        "image_processor_type": "DINOv3ViTImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def _check(theirs, key, wanted):
    got = theirs.get(key, wanted)
    if got != wanted:
        raise WeightsError(f"config.json has {key} {got!r}; the DINOv3 backbone has {wanted!r}")
