"""The device mesh and the arrays that enter it."""

import math

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from dinov3_jax.config import BatchConfig, ConfigError, MeshConfig
from dinov3_jax.distributed.sharding import BATCH_AXES, batch_sharding

AXES = ("replica", "fsdp", "fsdp_minor", "tensor")


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """Mesh of axes ``AXES`` over all devices; one size may be -1: what is left.

    Of several TPU slices ``replica`` alone goes from one to another: ``ConfigError`` unless it is a
    multiple of their number. Of several GPU nodes any axis may; they are filled one by one.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(config, len(devices))
    auto = (AxisType.Auto,) * 4  # the compiler propagates shardings from what little we state
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(sizes, AXES, axis_types=auto, devices=devices)
    # jax.make_mesh refuses them; to JAX a GPU node is a slice too.
    return Mesh(_over_slices(sizes, devices, slices), AXES, axis_types=auto)


def _over_slices(sizes, devices, slices):
    if devices[0].platform != "tpu":
        return np.array(sorted(devices, key=lambda d: (d.slice_index, d.id))).reshape(sizes)
    replica, *inside = sizes
    if replica % slices:
        raise ConfigError(
            f"mesh.replica is {replica} on {slices} TPU slices; make it a multiple of {slices}, so "
            "that weights are gathered inside a slice alone"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (replica // slices, *inside), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
    )


def mesh_sizes(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """Sizes of ``AXES`` for a number of devices; ``ConfigError`` if their product is another."""
    sizes = [config.replica, config.fsdp, config.fsdp_minor, config.tensor]
    if sizes.count(-1) == 1:
        known = -int(np.prod(sizes))
        sizes[sizes.index(-1)] = devices // known if known else 0
    if min(sizes) < 1 or np.prod(sizes) != devices:
        wanted = " x ".join(f"{axis} {getattr(config, axis)}" for axis in AXES)
        raise ConfigError(
            f"mesh {wanted} does not fit {devices} devices; the product must be "
            f"{devices}, one size may be -1"
        )
    return tuple(sizes)


def check_batch(config: BatchConfig, mesh: Mesh | AbstractMesh) -> None:
    """Raises ``ConfigError`` unless whole groups fall on every device in every micro-batch."""
    groups, rest = divmod(config.images, config.group)
    if rest:
        raise ConfigError(
            f"batch.images {config.images} is not a multiple of batch.group {config.group}; "
            f"take {config.group * max(groups, 1)} or {config.group * (groups + 1)}"
        )
    shards = batch_shards(mesh)
    if groups % (config.accumulate * shards):
        raise ConfigError(
            f"{groups} groups (batch.images {config.images} / batch.group {config.group}) cannot "
            f"be spread over {shards} devices x batch.accumulate {config.accumulate}; make "
            f"batch.images a multiple of {config.group * config.accumulate * shards}, or change "
            "batch.group"
        )


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """Parts into which the devices of ``mesh`` divide a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def alone():
    """Context in which this process computes on a device of its own, whatever the others do.

    Under the mesh of a run, every operation is one of all devices, and so of all processes.
    """
    return jax.set_mesh(make_mesh(MeshConfig(1, 1, 1, 1), jax.local_devices()[:1]))


def local_shards(mesh: Mesh) -> list[int]:
    """Which of the equal parts of a batch lie on devices of this process, in ascending order.

    There are ``batch_shards`` parts. On a torus neighbours in the mesh may belong to
    different hosts, so that the parts of one host need not follow each other.
    """
    shards = batch_shards(mesh)
    places = batch_sharding(mesh).addressable_devices_indices_map((shards,))
    return sorted({index[0].start or 0 for index in places.values() if index is not None})


def local_groups(config: BatchConfig, mesh: Mesh) -> list[int]:
    """The groups of a batch that this process has to read: those of its ``local_shards``."""
    each = config.images // config.group // batch_shards(mesh)
    return [shard * each + i for shard in local_shards(mesh) for i in range(each)]


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The ``local_shards`` of every array, joined -> global arrays, sharded on axis 0."""
    sharding, mine = batch_sharding(mesh), local_shards(mesh)
    shards = batch_shards(mesh)

    def place(local):
        rows = len(local) // len(mine)

        def part(index):
            first = mine.index((index[0].start or 0) // rows) * rows
            return local[first : first + rows]

        return jax.make_array_from_callback((rows * shards, *local.shape[1:]), sharding, part)

    return {name: place(local) for name, local in batch.items()}
