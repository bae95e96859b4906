"""A recipe so small that a train step compiles in seconds, with batches, state and program."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.synthetic import random_batch
from configs import base
from dinov3_jax.config import TrainConfig
from dinov3_jax.distributed import sharding
from dinov3_jax.distributed.mesh import batch_sharding
from dinov3_jax.models import build
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train.state import TrainState, has_gram_teacher, init_state, state_shardings
from dinov3_jax.train.step import Batch, train_step
from dinov3_jax.types import Params

# Every width is a multiple of 8, so that all tables of the sharding rules apply on 8 devices.
# LayerScale starts at 1: at 1e-5 the blocks would not show in any output.
TINY = {
    "name": "tiny",
    "steps": 20,
    "batch.images": 16,
    "batch.group": 2,
    "student.patch_size": 4,
    "student.embed_dim": 16,
    "student.depth": 2,
    "student.num_heads": 2,
    "student.storage_tokens": 2,
    "student.layerscale": 1.0,
    "student.dtype": "float32",
    "dino.head.prototypes": 32,
    "dino.head.hidden": 24,
    "dino.head.bottleneck": 16,
    "ibot.head.prototypes": 24,
    "ibot.head.hidden": 16,
    "ibot.head.bottleneck": 8,
    "optim.lr_scaling": "none",
    "optim.freeze_last_layer": 0,
    "crops.global_size": 16,
    "crops.local_size": 8,
    "crops.local_count": 2,
}


# A ConvNeXt student: its stride of 32 pixels is 8 patches of the tiny ViT.
CONVNEXT = {
    "student.arch": "convnext_tiny",
    "student.embed_dim": None,
    "student.depth": None,
    "student.num_heads": None,
    "student.stage_depths": (1, 1, 1, 1),
    "student.stage_dims": (8, 8, 16, 16),
    "crops.global_size": 64,
    "crops.local_size": 32,
}


def tiny_config(**overrides) -> TrainConfig:
    """The tiny recipe, changed by dotted keys: ``tiny_config(**{"batch.group": 4})``.

    A key of ``gram`` or ``distill`` switches that on. The networks of the frozen teacher are those
    of the tiny recipe.
    """
    recipe = base.get_config()
    recipe.optim.lr = base.schedule(1e-3)
    recipe.teacher.momentum = base.schedule(0.9)
    recipe.teacher.temperature = base.schedule(0.07)
    recipe.update_from_flattened_dict(TINY)
    sections = {key.partition(".")[0] for key in overrides}
    if "gram" in sections:
        recipe.gram = base.gram()
    if "distill" in sections:
        recipe.distill = base.distill(recipe)
    recipe.update_from_flattened_dict(overrides)
    return from_config_dict(recipe)


def tiny_batch(config: TrainConfig, *, seed: int = 0) -> Batch:
    """Normal pixels and masks from the data pipeline's own generator."""
    return random_batch(config, seed=seed)


def tiny_state(config: TrainConfig, *, seed: int = 0) -> TrainState:
    """A state on the host with random parameters everywhere; the teacher differs from the student.

    Not the initial values: a mask token of 0 and biases of 0 give features whose length is 0, where
    the heads' normalisation has gradients of 1e9 and float32 says nothing.
    """
    rng = np.random.default_rng(seed)
    shapes = _shapes(config)
    draw = lambda x: (0.3 * rng.standard_normal(x.shape)).astype(np.float32)  # noqa: E731
    zeros = lambda x: np.zeros(x.shape, x.dtype)  # noqa: E731
    student = jax.tree.map(draw, shapes.student)
    teacher = jax.tree.map(lambda p: p + 0.1 * draw(p), student)
    rest = jax.tree.map(zeros, (shapes.opt_state, shapes.centers, shapes.step))
    gram_teacher = jax.tree.map(lambda p: p - 0.1 * draw(p), student["backbone"])
    gram_teacher = gram_teacher if has_gram_teacher(config) else {}
    return TrainState(student, teacher, gram_teacher, *rest)


@functools.cache
def _shapes(config):
    return jax.eval_shape(lambda: init_state(config, jax.random.key(0)))


def tiny_frozen(config: TrainConfig, *, seed: int = 1) -> Params | None:
    """Random parameters for the frozen teacher of ``config``; None without one."""
    if config.distill is None:
        return None
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: build.init_distill_params(config, jax.random.key(0)))
    return jax.tree.map(lambda x: (0.3 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


def compile_step(config: TrainConfig, mesh: Mesh):
    """jit of (state, batch, key, frozen teacher or None) -> (state, metrics).

    ``place`` and ``place_frozen`` put arguments on ``mesh``.
    """
    networks = build.networks(config)
    return jax.jit(
        functools.partial(train_step, config=config, networks=networks),
        donate_argnums=0,
        out_shardings=(state_shardings(config, mesh), NamedSharding(mesh, PartitionSpec())),
    )


def place(config: TrainConfig, mesh: Mesh, state: TrainState, batch: Batch):
    """Copies of both on the devices of ``mesh``, as training lays them."""
    batch = jax.tree.map(lambda x: jax.device_put(x, batch_sharding(mesh)), batch)
    return jax.tree.map(jax.device_put, state, state_shardings(config, mesh)), batch


def place_frozen(mesh: Mesh, frozen: Params | None) -> Params | None:
    if frozen is None:
        return None
    shardings = sharding.named(sharding.param_specs(frozen, mesh), mesh)
    return jax.tree.map(jax.device_put, frozen, shardings)
