"""The device mesh and the arrays that enter it."""

import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from dinov3_jax.config import BatchConfig, ConfigError, MeshConfig
from dinov3_jax.distributed.sharding import BATCH_AXES, batch_sharding

AXES = ("replica", "fsdp", "fsdp_minor", "tensor")


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """Mesh of axes (replica, fsdp, tensor) over all devices; one size may be -1: what is left."""
    devices = jax.devices() if devices is None else devices
    sizes = [config.replica, config.fsdp, config.fsdp_minor, config.tensor]
    if sizes.count(-1) == 1:
        known = -int(np.prod(sizes))
        sizes[sizes.index(-1)] = len(devices) // known if known else 0
    if min(sizes) < 1 or np.prod(sizes) != len(devices):
        wanted = f"replica {config.replica} x fsdp {config.fsdp} x tensor {config.tensor}"
        raise ConfigError(
            f"mesh {wanted} does not fit {len(devices)} devices; the product must be "
            f"{len(devices)}, one size may be -1"
        )
    # Auto: the compiler propagates shardings from the few constraints we state.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 4, devices=devices)


def check_batch(config: BatchConfig, mesh: Mesh) -> None:
    """Raises ``ConfigError`` unless whole groups fall on every device in every micro-batch."""
    groups, rest = divmod(config.images, config.group)
    if rest:
        raise ConfigError(
            f"batch.images {config.images} is not a multiple of batch.group {config.group}; "
            f"take {config.group * max(groups, 1)} or {config.group * (groups + 1)}"
        )
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if groups % (config.accumulate * shards):
        raise ConfigError(
            f"{groups} groups (batch.images {config.images} / batch.group {config.group}) cannot "
            f"be spread over {shards} devices x batch.accumulate {config.accumulate}; make "
            f"batch.images a multiple of {config.group * config.accumulate * shards}, or change "
            "batch.group"
        )


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's slice of every array -> global arrays, sharded on axis 0."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
