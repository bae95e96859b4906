"""The three networks of pretraining, as graphs beside plain parameter trees."""

from typing import NamedTuple

import jax
from flax import nnx

from dinov3_jax.config import (
    CompleteVitConfig,
    ConfigError,
    ConvNextConfig,
    HeadConfig,
    TrainConfig,
    VitConfig,
)
from dinov3_jax.models import presets
from dinov3_jax.models.convnext import ConvNext
from dinov3_jax.models.heads import ProjectionHead
from dinov3_jax.models.vit import VisionTransformer
from dinov3_jax.types import Params


class Networks(NamedTuple):
    """Static structure; ``nnx.merge(networks.backbone, params["backbone"])`` is a module."""

    backbone: nnx.GraphDef
    dino_head: nnx.GraphDef
    ibot_head: nnx.GraphDef


class _Sections(NamedTuple):
    """The parts of a recipe that describe three networks, and the name of the first."""

    name: str
    backbone: VitConfig
    dino_head: HeadConfig
    ibot_head: HeadConfig


def backbone(
    config: CompleteVitConfig | ConvNextConfig, rngs: nnx.Rngs
) -> VisionTransformer | ConvNext:
    """The module that a completed configuration (``presets.complete``) describes."""
    if isinstance(config, ConvNextConfig):
        return ConvNext(config, rngs=rngs)
    return VisionTransformer(config, rngs=rngs)


def networks(config: TrainConfig) -> Networks:
    return _networks(_student(config))


def init_params(config: TrainConfig, key: jax.Array) -> Params:
    """Fresh float32 parameters {backbone, dino_head, ibot_head}; call it under ``jax.jit``."""
    return _init(_student(config), key)


def distill_networks(config: TrainConfig) -> Networks:
    """The networks of the frozen teacher that ``config.distill`` describes."""
    return _networks(_frozen_teacher(config))


def init_distill_params(config: TrainConfig, key: jax.Array) -> Params:
    """As ``init_params``, for the frozen teacher: the shapes that a checkpoint then fills."""
    return _init(_frozen_teacher(config), key)


def _student(config):
    return _Sections("student", config.student, config.dino.head, config.ibot.head)


def _frozen_teacher(config):
    distill = config.distill
    if distill is None:
        raise ConfigError("config.distill is None; set it to configs.base.distill(teacher recipe)")
    return _Sections("distill.backbone", distill.backbone, distill.dino_head, distill.ibot_head)


def _networks(sections):
    modules = nnx.eval_shape(lambda: _modules(sections, jax.random.key(0)))
    return Networks(*(nnx.graphdef(module) for module in modules))


def _init(sections, key):
    return {
        name: nnx.to_pure_dict(nnx.state(module))
        for name, module in zip(Networks._fields, _modules(sections, key), strict=True)
    }


def _modules(sections: _Sections, key: jax.Array) -> tuple[nnx.Module, ...]:
    config = presets.complete(sections.backbone, section=sections.name)
    keys = jax.random.split(key, 3)
    heads = [
        ProjectionHead(config.embed_dim, head, dtype=config.dtype, rngs=nnx.Rngs(head_key))
        for head, head_key in zip((sections.dino_head, sections.ibot_head), keys[1:])
    ]
    return (backbone(config, nnx.Rngs(keys[0])), *heads)
