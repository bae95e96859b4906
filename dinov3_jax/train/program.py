"""The compiled step: uint8 batches of the data pipeline in, next states out."""

import dataclasses
import logging
import time
from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dinov3_jax.augment.augment import augment
from dinov3_jax.config import CropConfig, TrainConfig
from dinov3_jax.data.pipeline import train_batches
from dinov3_jax.data.resolution import crops_at
from dinov3_jax.data.sources import Source
from dinov3_jax.distributed.compiler import compiler_options
from dinov3_jax.distributed.mesh import global_batch, local_groups
from dinov3_jax.models import build
from dinov3_jax.train.multistudent_step import multistudent_step
from dinov3_jax.train.state import state_shardings
from dinov3_jax.train.step import train_step
from dinov3_jax.train.targets import Batch

BOOKKEEPING = ("record", "skipped")  # of a batch: they stay on the host
_log = logging.getLogger(__name__)


class Arguments(NamedTuple):
    """Examples of what a step takes besides the batch; only their shapes and shardings count."""

    states: dict
    key: jax.Array
    frozen: dict | None


def step_program(configs: dict[str, TrainConfig], mesh: Mesh, crops: CropConfig):
    """jit of (states, batch of the data pipeline, key, frozen teacher) -> (states, metrics).

    ``configs``, states and metrics by name of the student; a run that is no multi-student
    distillation has one. The states are donated. Augmentation (or normalisation) of the uint8
    batch at the sizes of ``crops`` is part of the program.
    """
    networks = {name: build.networks(config) for name, config in configs.items()}

    def step(states, arrays, key, frozen):
        with jax.named_scope("augment"):
            cut = augment(arrays, crops=crops)
        masks = (arrays["masks"], arrays["mask_indices"], arrays["mask_weights"])
        batch = Batch(cut.global_crops, cut.local_crops, *masks, cut.gram_crops)
        if len(configs) > 1:
            return multistudent_step(states, batch, key, frozen, configs=configs, networks=networks)
        ((name, config),) = configs.items()
        state, metrics = train_step(
            states[name], batch, key, frozen, config=config, networks=networks[name]
        )
        return {name: state}, {name: metrics}

    shardings = {name: state_shardings(config, mesh) for name, config in configs.items()}
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, NamedSharding(mesh, P())))


def compile_steps(
    configs: dict[str, TrainConfig], mesh: Mesh, source: Source, arguments: Arguments
) -> list:
    """One executable for each entry of ``crops.mixture`` (one in all without a mixture).

    All are compiled before training starts: a rare size must not stall a pod in the middle of a
    run. ``index`` of ``data.resolution`` says which one a step takes.
    """
    config = next(iter(configs.values()))
    programs, groups = [], local_groups(config.batch, mesh)
    for index in range(len(config.crops.mixture or (None,))):
        crops = crops_at(config.crops, index)
        only = dataclasses.replace(config, crops=crops)
        # For its shapes:
        for batch in train_batches(source, only, start_step=0, stop_step=1, groups=groups):
            arrays = global_batch({k: v for k, v in batch.items() if k not in BOOKKEEPING}, mesh)
        started = time.perf_counter()
        lowered = step_program(configs, mesh, crops).lower(
            arguments.states, arrays, arguments.key, arguments.frozen
        )
        kind = mesh.devices.flat[0].device_kind
        programs.append(lowered.compile(compiler_options(kind)))
        _log.info(
            "compiled the step of %d / %d%s pixel crops in %.0f s",
            crops.global_size,
            crops.local_size,
            f" / {crops.gram_size}" if crops.gram_size else "",
            time.perf_counter() - started,
        )
    return programs
