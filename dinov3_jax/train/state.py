"""Everything that a run carries from step to step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec as P

from dinov3_jax.config import TrainConfig
from dinov3_jax.distributed import sharding
from dinov3_jax.models import build
from dinov3_jax.train import optimizer
from dinov3_jax.types import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree. ``centers`` is empty unless teacher.centering is "softmax"."""

    student: Params
    teacher: Params  # the EMA of the student, in distillation too
    gram_teacher: Params  # a backbone; empty without a Gram teacher of its own
    opt_state: optax.OptState
    centers: Params  # {"cls": [K], "patch": [K]}
    step: jax.Array  # int32, steps done


def init_state(config: TrainConfig, key: jax.Array) -> TrainState:
    """A fresh state; the teacher starts as a copy of the student. Trace it under ``jax.jit``."""
    student = build.init_params(config, key)
    return from_params(config, student)


def from_params(config: TrainConfig, student: Params) -> TrainState:
    centers = {}
    if config.teacher.centering == "softmax":
        heads = {"cls": config.dino.head, "patch": config.ibot.head}
        centers = {k: jnp.zeros((head.prototypes,), jnp.float32) for k, head in heads.items()}
    return TrainState(
        student=student,
        teacher=jax.tree.map(jnp.copy, student),
        gram_teacher=jax.tree.map(jnp.copy, student["backbone"])
        if has_gram_teacher(config)
        else {},
        opt_state=optimizer.init(student, config.optim),
        centers=centers,
        step=jnp.zeros((), jnp.int32),
    )


def has_gram_teacher(config: TrainConfig) -> bool:
    return config.gram is not None and config.gram.teacher != "ema"


def state_shardings(config: TrainConfig, mesh: Mesh | AbstractMesh) -> TrainState:
    """A ``TrainState`` of shardings: moments and teacher lie where their parameters lie."""
    shapes = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))
    params = sharding.param_specs(shapes.student, mesh)
    specs: Any = dict(
        student=params,
        teacher=params,
        gram_teacher=params["backbone"] if has_gram_teacher(config) else {},
        opt_state=shapes.opt_state._replace(count=P(), mu=params, nu=params),
        centers=jax.tree.map(lambda _: P(), shapes.centers),
        step=P(),
    )
    return sharding.named(TrainState(**specs), mesh)


def create_state(config: TrainConfig, mesh: Mesh) -> TrainState:
    """The state of step 0, born sharded: no device ever holds a whole copy."""
    init = jax.jit(lambda key: init_state(config, key), out_shardings=state_shardings(config, mesh))
    return init(jax.random.key(config.seed))
