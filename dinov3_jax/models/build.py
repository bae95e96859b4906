"""The three networks of pretraining, as graphs beside plain parameter trees."""

from typing import NamedTuple

import jax
from flax import nnx

from dinov3_jax.config import TrainConfig
from dinov3_jax.models import presets
from dinov3_jax.models.heads import ProjectionHead
from dinov3_jax.models.vit import VisionTransformer
from dinov3_jax.types import Params


class Networks(NamedTuple):
    """Static structure; ``nnx.merge(networks.backbone, params["backbone"])`` is a module."""

    backbone: nnx.GraphDef
    dino_head: nnx.GraphDef
    ibot_head: nnx.GraphDef


def _modules(config: TrainConfig, key: jax.Array) -> tuple[nnx.Module, ...]:
    student = presets.complete(config.student)
    keys = jax.random.split(key, 3)
    head = dict(dtype=student.dtype)
    return (
        VisionTransformer(student, rngs=nnx.Rngs(keys[0])),
        ProjectionHead(student.embed_dim, config.dino.head, rngs=nnx.Rngs(keys[1]), **head),
        ProjectionHead(student.embed_dim, config.ibot.head, rngs=nnx.Rngs(keys[2]), **head),
    )


def networks(config: TrainConfig) -> Networks:
    modules = nnx.eval_shape(lambda: _modules(config, jax.random.key(0)))
    return Networks(*(nnx.graphdef(module) for module in modules))


def init_params(config: TrainConfig, key: jax.Array) -> Params:
    """Fresh float32 parameters {backbone, dino_head, ibot_head}; call it under ``jax.jit``."""
    modules = _modules(config, key)
    return {
        name: nnx.to_pure_dict(nnx.state(module))
        for name, module in zip(Networks._fields, modules, strict=True)
    }
