"""Named ViT sizes, and how a recipe's student section becomes complete."""

from dinov3_jax.config import CompleteVitConfig, ConfigError, VitConfig

_SMALL = dict(ffn="mlp", ffn_ratio=4.0, ffn_align=8, qkv_bias=True)
_PLUS = dict(ffn="swiglu", ffn_ratio=6.0, ffn_align=8, qkv_bias=True)

PRESETS = {
    "vit_tiny": dict(embed_dim=192, depth=12, num_heads=3, **_SMALL),
    "vit_small": dict(embed_dim=384, depth=12, num_heads=6, **_SMALL),
    "vit_small_plus": dict(embed_dim=384, depth=12, num_heads=6, **_PLUS),
    "vit_base": dict(embed_dim=768, depth=12, num_heads=12, **_SMALL),
    "vit_large": dict(embed_dim=1024, depth=24, num_heads=16, **_SMALL),
    "vit_large_plus": dict(embed_dim=1024, depth=24, num_heads=16, **_PLUS),
    "vit_so400m": dict(
        embed_dim=1152, depth=27, num_heads=18, **{**_SMALL, "ffn_ratio": 3.777777778}
    ),
    "vit_huge2": dict(embed_dim=1280, depth=32, num_heads=20, **_SMALL),
    "vit_huge_plus": dict(embed_dim=1280, depth=32, num_heads=20, **_PLUS),
    "vit_giant2": dict(embed_dim=1536, depth=40, num_heads=24, **_SMALL),
    "vit_7b": dict(
        embed_dim=4096,
        depth=40,
        num_heads=32,
        ffn="swiglu",
        ffn_ratio=3.0,
        ffn_align=64,
        qkv_bias=False,
    ),
}

_CHOICES = {
    "ffn": ("mlp", "swiglu"),
    "norm": ("layernorm", "rmsnorm"),
    "rope_normalize": ("separate", "max", "min"),
    "rope_dtype": ("float32", "bfloat16"),
    "dtype": ("float32", "bfloat16"),
    "remat": ("none", "dots", "full"),
}


def complete(config: VitConfig) -> CompleteVitConfig:
    """Fills every size left ``None`` from the preset ``config.arch`` and checks the result.

    Raises ``ConfigError`` for an unknown preset, a width that the heads do not divide, a head
    width that is not a multiple of 4 (axial RoPE), an unknown choice, or RoPE given by both or
    neither of its parametrisations.
    """
    if config.arch not in PRESETS:
        raise ConfigError(f"student.arch is {config.arch!r}, wanted one of {', '.join(PRESETS)}")
    sizes = PRESETS[config.arch]
    given = vars(config)
    full = CompleteVitConfig(**given | {k: v for k, v in sizes.items() if given[k] is None})
    for key, allowed in _CHOICES.items():
        if getattr(full, key) not in allowed:
            raise ConfigError(f"student.{key} is {getattr(full, key)!r}, wanted one of {allowed}")
    if full.embed_dim % full.num_heads or (full.embed_dim // full.num_heads) % 4:
        raise ConfigError(
            f"student.embed_dim {full.embed_dim} over student.num_heads {full.num_heads} must "
            "give a whole head width that is a multiple of 4 (two axes, sine and cosine)"
        )
    periods = (full.rope_min_period, full.rope_max_period)
    if (full.rope_base is None) == (None in periods) or (
        full.rope_base is not None and periods != (None, None)
    ):
        raise ConfigError(
            "RoPE wants either student.rope_base or both student.rope_min_period and "
            f"rope_max_period; got base {full.rope_base}, periods {periods}"
        )
    if not 0.0 <= full.drop_path < 1.0:
        raise ConfigError(f"student.drop_path is {full.drop_path}, wanted [0, 1)")
    return full


def ffn_hidden(config: CompleteVitConfig) -> int:
    """Hidden width F: D·ratio (mlp), or two thirds of it rounded up to the alignment (swiglu)."""
    hidden = int(config.embed_dim * config.ffn_ratio)
    if config.ffn == "mlp":
        return hidden
    return -(-int(hidden * 2 / 3) // config.ffn_align) * config.ffn_align
