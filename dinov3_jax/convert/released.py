"""The released backbones: names, sizes, image statistics, where their files are."""

import difflib
import functools
import json
from typing import Any, NamedTuple

import jax
import numpy as np

from dinov3_jax import recipe
from dinov3_jax.config import CompleteVitConfig, ConvNextConfig, VitConfig
from dinov3_jax.convert.official import to_official
from dinov3_jax.models import presets
from dinov3_jax.models.model import WEB, abstract_params

# Mean, std of pixels in 0..1.
SATELLITE = ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))


class Description(NamedTuple):
    """All of a ``Model`` but its weights."""

    name: str
    config: CompleteVitConfig | ConvNextConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Released(NamedTuple):
    """One published file of weights."""

    name: str  # ours
    arch: str  # of models/presets.py
    dataset: str  # "lvd1689m" (web images) | "sat493m" (satellite images)
    digest: str  # first 8 hex characters of the sha256 of the official file, and in its name
    hub: str | None  # Hugging Face repository
    timm: str | None  # name in timm; the official one with the qkv biases, where there are two

    @property
    def official_file(self) -> str:
        stem = self.name.removesuffix(f"_{self.dataset}")
        return f"{stem}_pretrain_{self.dataset}-{self.digest}.pth"


def _row(name, arch, digest, timm, dataset="lvd1689m", hub=True):
    short = name.removeprefix("dinov3_").removesuffix(f"_{dataset}").replace("_", "-")
    repository = f"facebook/dinov3-{short}-pretrain-{dataset}" if hub else None
    return Released(name, arch, dataset, digest, repository, timm)


CATALOGUE = {
    row.name: row
    for row in (
        _row("dinov3_vits16", "vit_small", "08c60483", "vit_small_patch16_dinov3_qkvb.lvd1689m"),
        _row(
            "dinov3_vits16plus",
            "vit_small_plus",
            "4057cbaa",
            "vit_small_plus_patch16_dinov3_qkvb.lvd1689m",
        ),
        _row("dinov3_vitb16", "vit_base", "73cec8be", "vit_base_patch16_dinov3_qkvb.lvd1689m"),
        _row("dinov3_vitl16", "vit_large", "8aa4cbdd", "vit_large_patch16_dinov3_qkvb.lvd1689m"),
        _row(
            "dinov3_vitl16_sat493m",
            "vit_large",
            "eadcf0ff",
            "vit_large_patch16_dinov3_qkvb.sat493m",
            "sat493m",
        ),
        _row("dinov3_vitl16plus", "vit_large_plus", "46503df0", None, hub=False),
        _row(
            "dinov3_vith16plus",
            "vit_huge_plus",
            "7c1da9a5",
            "vit_huge_plus_patch16_dinov3_qkvb.lvd1689m",
        ),
        _row("dinov3_vit7b16", "vit_7b", "a955f4ea", "vit_7b_patch16_dinov3.lvd1689m"),
        _row(
            "dinov3_vit7b16_sat493m",
            "vit_7b",
            "a6675841",
            "vit_7b_patch16_dinov3.sat493m",
            "sat493m",
        ),
        _row("dinov3_convnext_tiny", "convnext_tiny", "21b726bb", "convnext_tiny.dinov3_lvd1689m"),
        _row(
            "dinov3_convnext_small", "convnext_small", "296db49d", "convnext_small.dinov3_lvd1689m"
        ),
        _row("dinov3_convnext_base", "convnext_base", "801f2ba9", "convnext_base.dinov3_lvd1689m"),
        _row(
            "dinov3_convnext_large", "convnext_large", "61fa432d", "convnext_large.dinov3_lvd1689m"
        ),
    )
}

# Digests of published files that are no backbones.
HEADS = {
    "90d8ed92": "a linear classifier",
    "02040be1": "a depth head",
    "3703d643": "a canopy height head",
    "b0235ff7": "a detection head",
    "bf307cb1": "a segmentation head",
    "a442d8f5": "a text encoder",
}


def list_models() -> list[str]:
    """Names that ``load`` knows, smallest first within ViTs and ConvNeXts."""
    return list(CATALOGUE)


def find(name: str) -> Released | None:
    """The row of a name of ours, a Hugging Face repository or a name in timm."""
    for row in CATALOGUE.values():
        timm = row.timm or ""
        if name in (row.name, row.hub, timm, timm.replace("_qkvb", ""), row.official_file):
            return row
    return None


def nearest(name: str) -> str:
    """The known name most like ``name``."""
    return difflib.get_close_matches(name, list_models(), n=1, cutoff=0.0)[0]


def describe(row: Released) -> Description:
    """Its configuration, computing in float32, and the statistics of its images."""
    # Only satellite ViT-L and both 7B carry the norm that local crops had in training.
    untied = row.arch == "vit_7b" or (row.arch, row.dataset) == ("vit_large", "sat493m")
    section = vit_section(row.arch, untie_global_and_local_cls_norm=untied)
    config = presets.complete(section, section=row.name)
    mean, std = SATELLITE if row.dataset == "sat493m" else WEB
    return Description(row.name, config, mean, std)


def vit_section(arch: str, **changes) -> VitConfig:
    """What all released models share, as the section ``student`` of a recipe would say it."""
    convnext = arch in presets.CONVNEXT_PRESETS
    values: dict[str, Any] = dict.fromkeys(VitConfig.__dataclass_fields__) | dict(
        arch=arch,
        patch_size=None if convnext else 16,  # a ConvNeXt's maps stay on their own grid
        in_channels=3,
        proj_bias=True,
        ffn_bias=True,
        mask_k_bias=True,
        norm="layernorm",
        norm_eps=1e-5,
        storage_tokens=4,
        layerscale=1e-5,
        drop_path=0.0,
        untie_cls_and_patch_norms=False,
        untie_global_and_local_cls_norm=False,
        rope_base=100.0,
        rope_normalize="separate",
        rope_rescale=2.0,
        rope_dtype="float32",
        dtype="float32",
        remat="none",
        remat_blocks=0,
        attention="auto",
        fp8=False,
    )
    return VitConfig(**values | changes)


@functools.cache
def official_shapes(config: CompleteVitConfig | ConvNextConfig) -> dict[str, tuple[int, ...]]:
    """{official name: shape} of every parameter of a backbone."""
    zero = np.float32(0.0)
    tree = jax.tree.map(lambda x: np.broadcast_to(zero, x.shape), abstract_params(config))
    return {name: x.shape for name, x in to_official(tree).items()}


def to_json(description: Description) -> str:
    """Text that goes with weights we write, so that they can be loaded by their path alone."""
    config = recipe.to_dict(description.config)
    kind = "convnext" if isinstance(description.config, ConvNextConfig) else "vit"
    return json.dumps(description._asdict() | {"config": config, "kind": kind})


def from_json(text: str) -> Description:
    """The inverse of ``to_json``; raises ``ConfigError`` for a key too many or too few."""
    saved = json.loads(text)
    schema = ConvNextConfig if saved["kind"] == "convnext" else CompleteVitConfig
    config = recipe.from_config_dict(saved["config"], schema)
    return Description(saved["name"], config, tuple(saved["mean"]), tuple(saved["std"]))
