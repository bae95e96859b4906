"""Named backbone sizes, and how a recipe's student section becomes complete."""

from dinov3_jax.config import CompleteVitConfig, ConfigError, ConvNextConfig, VitConfig
from dinov3_jax.models import remat

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

CONVNEXT_PRESETS = {
    "convnext_tiny": dict(stage_depths=(3, 3, 9, 3), stage_dims=(96, 192, 384, 768)),
    "convnext_small": dict(stage_depths=(3, 3, 27, 3), stage_dims=(96, 192, 384, 768)),
    "convnext_base": dict(stage_depths=(3, 3, 27, 3), stage_dims=(128, 256, 512, 1024)),
    "convnext_large": dict(stage_depths=(3, 3, 27, 3), stage_dims=(192, 384, 768, 1536)),
}

_CHOICES = {
    "ffn": ("mlp", "swiglu"),
    "norm": ("layernorm", "rmsnorm"),
    "rope_normalize": ("separate", "max", "min"),
    "rope_dtype": ("float32", "bfloat16"),
    "dtype": ("float32", "bfloat16"),
    "attention": ("auto", "xla", "cudnn", "pallas"),
}


def complete(config: VitConfig, *, section: str = "student") -> CompleteVitConfig | ConvNextConfig:
    """Fills every size left ``None`` from the preset ``config.arch`` and checks the result.

    ``section`` is the part of the recipe that errors name. Raises ``ConfigError`` for an unknown
    preset or choice; of a ViT for a width that the heads do not divide, a head width that is not a
    multiple of 4 (axial RoPE), RoPE given by both or neither of its parametrisations, or stages;
    of a ConvNeXt for stages without blocks or channels, stochastic depth, or a size of a ViT.
    """
    if config.arch in CONVNEXT_PRESETS:
        return _complete_convnext(config, section)
    if config.arch in PRESETS:
        return _complete_vit(config, section)
    names = ", ".join([*PRESETS, *CONVNEXT_PRESETS])
    raise ConfigError(f"{section}.arch is {config.arch!r}, wanted one of {names}")


def _complete_vit(config, section):
    sizes = PRESETS[config.arch]
    given = vars(config)
    missing = {k: v for k, v in sizes.items() if given[k] is None}
    full = CompleteVitConfig(**{"rope_periods": None, **given, **missing})
    _check_choices(full, section)
    _refuse(config, ("stage_depths", "stage_dims"), section)
    if full.embed_dim % full.num_heads or (full.embed_dim // full.num_heads) % 4:
        raise ConfigError(
            f"{section}.embed_dim {full.embed_dim} over {section}.num_heads {full.num_heads} must "
            "give a whole head width that is a multiple of 4 (two axes, sine and cosine)"
        )
    periods = (full.rope_min_period, full.rope_max_period)
    if (full.rope_base is None) == (None in periods) or (
        full.rope_base is not None and periods != (None, None)
    ):
        raise ConfigError(
            f"RoPE wants either {section}.rope_base or both {section}.rope_min_period and "
            f"rope_max_period; got base {full.rope_base}, periods {periods}"
        )
    if not 0 <= full.remat_blocks <= full.depth:
        raise ConfigError(
            f"{section}.remat_blocks is {full.remat_blocks}, wanted 0 to {full.depth} (the depth)"
        )
    if not 0.0 <= full.drop_path < 1.0:
        raise ConfigError(f"{section}.drop_path is {full.drop_path}, wanted [0, 1)")
    if full.attention == "cudnn" and full.dtype == "float32":
        raise ConfigError(
            f"{section}.attention is 'cudnn', which has no float32: set {section}.dtype='bfloat16' "
            f"or {section}.attention='xla'"
        )
    if full.fp8 and (full.embed_dim % 16 or ffn_hidden(full) % 16):
        raise ConfigError(
            f"{section}.fp8 wants widths that are multiples of 16, as float8 units do; embed_dim "
            f"is {full.embed_dim}, the feed-forward layers' width {ffn_hidden(full)}"
        )
    return full


def _complete_convnext(config, section):
    sizes = CONVNEXT_PRESETS[config.arch]
    full = ConvNextConfig(
        arch=config.arch,
        patch_size=config.patch_size,
        in_channels=config.in_channels,
        stage_depths=config.stage_depths or sizes["stage_depths"],
        stage_dims=config.stage_dims or sizes["stage_dims"],
        dtype=config.dtype,
        remat=config.remat,
    )
    _check_choices(full, section)
    # Every key that only a ViT has sizes for; its other keys have defaults and are not read.
    _refuse(config, PRESETS["vit_small"], section)
    if config.drop_path:
        raise ConfigError(
            f"{section}.drop_path is {config.drop_path}; {config.arch} has no stochastic depth, "
            "set it to 0"
        )
    if config.fp8:
        raise ConfigError(f"{section}.fp8 is True; {config.arch} has no float8, set it to False")
    for key in ("stage_depths", "stage_dims"):
        if min(getattr(full, key)) < 1:
            raise ConfigError(f"{section}.{key} is {getattr(full, key)}, wanted at least 1 each")
    return full


def _check_choices(full, section):
    if not remat.is_known(full.remat):
        raise ConfigError(
            f"{section}.remat is {full.remat!r}, wanted 'none', 'dots', 'full' or some of "
            f"{', '.join(remat.NAMES)} joined by '+'"
        )
    for key, allowed in _CHOICES.items():
        value = getattr(full, key, allowed[0])
        if value not in allowed:
            raise ConfigError(f"{section}.{key} is {value!r}, wanted one of {allowed}")


def _refuse(config, keys, section):
    for key in keys:
        if getattr(config, key) is not None:
            raise ConfigError(
                f"{section}.{key} is {getattr(config, key)!r}; {config.arch} has no such size, set "
                "it to None"
            )


def ffn_hidden(config: CompleteVitConfig) -> int:
    """Hidden width F: D·ratio (mlp), or two thirds of it rounded up to the alignment (swiglu)."""
    hidden = int(config.embed_dim * config.ffn_ratio)
    if config.ffn == "mlp":
        return hidden
    return -(-int(hidden * 2 / 3) // config.ffn_align) * config.ffn_align
