import dataclasses
import itertools

import jax
import numpy as np
import pytest

from dinov3_jax.config import BatchConfig, ConfigError, MeshConfig
from dinov3_jax.distributed import mesh


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ((1, -1, 1, 1), (1, 8, 1, 1)),
        ((2, -1, 1, 1), (2, 4, 1, 1)),
        ((2, 2, 1, 2), (2, 2, 1, 2)),
        ((1, -1, 2, 1), (1, 4, 2, 1)),
        ((-1, 2, 1, 1), (4, 2, 1, 1)),
    ],
)
def test_one_size_may_be_what_is_left(sizes, wanted):
    made = mesh.make_mesh(MeshConfig(*sizes))
    assert dict(made.shape) == dict(zip(mesh.AXES, wanted))


def test_axes_are_auto():
    """make_mesh of jax defaults to Explicit, under which our constraints would be errors."""
    assert set(mesh.make_mesh(MeshConfig(1, -1, 1, 1)).axis_types) == {jax.sharding.AxisType.Auto}


def test_some_devices():
    assert mesh.make_mesh(MeshConfig(1, -1, 1, 1), jax.devices()[:2]).size == 2


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 3, 1, 1),
        (1, 16, 1, 1),
        (3, -1, 1, 1),
        (16, -1, 1, 1),
        (-1, -1, 1, 1),
        (1, 0, 1, 1),
        (0, -1, 1, 1),
        (1, -2, 1, 1),
    ],
)
def test_meshes_that_do_not_fit(sizes):
    with pytest.raises(ConfigError, match="does not fit 8 devices; the product must be 8"):
        mesh.make_mesh(MeshConfig(*sizes))


EIGHT = MeshConfig(2, 4, 1, 1)


@pytest.mark.parametrize(("images", "group", "accumulate"), [(16, 2, 1), (64, 4, 2), (8, 1, 1)])
def test_batches_that_fit(images, group, accumulate):
    mesh.check_batch(BatchConfig(images, group, accumulate), mesh.make_mesh(EIGHT))


def test_tensor_axis_does_not_split_the_batch():
    mesh.check_batch(BatchConfig(8, 2, 1), mesh.make_mesh(MeshConfig(2, 2, 1, 2)))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((18, 4, 1), "batch.images 18 is not a multiple of batch.group 4; take 16 or 20"),
        ((3, 4, 1), "batch.images 3 is not a multiple of batch.group 4; take 4 or 4"),
        ((24, 2, 1), "12 groups .* over 8 devices .* make batch.images a multiple of 16"),
        ((16, 2, 2), "8 groups .* 8 devices x batch.accumulate 2; .* a multiple of 32"),
    ],
)
def test_batches_that_do_not_fit(batch, message):
    with pytest.raises(ConfigError, match=message):
        mesh.check_batch(BatchConfig(*batch), mesh.make_mesh(EIGHT))


@pytest.mark.parametrize("sizes", [(1, -1, 1, 1), (2, 2, 1, 2), (2, -1, 2, 1)])
def test_one_process_reads_all_groups(sizes):
    made = mesh.make_mesh(MeshConfig(*sizes))
    assert mesh.local_shards(made) == list(range(made.size // made.shape["tensor"]))
    assert mesh.local_groups(BatchConfig(32, 2, 1), made) == list(range(16))


def test_global_batch_lies_on_all_devices_by_axis_0():
    made = mesh.make_mesh(EIGHT)
    host = {"x": np.arange(48.0).reshape(16, 3), "y": np.arange(8)}
    arrays = mesh.global_batch(host, made)
    for name, value in host.items():
        np.testing.assert_array_equal(arrays[name], value)
        rows = len(value) // 8
        for shard in arrays[name].addressable_shards:
            assert shard.data.shape[0] == rows
        starts = {shard.index[0].start for shard in arrays[name].addressable_shards}
        assert starts == set(range(0, len(value), rows))  # every device another part


@dataclasses.dataclass(frozen=True)
class Fake:
    """A device of a slice that is not here, or of a GPU node."""

    slice_index: int
    coords: tuple
    id: int
    platform: str = "tpu"
    device_kind: str = "TPU v5p"
    core_on_chip: int = 0
    process_index: int = 0


def slices(count, side, **kind):
    """Devices of ``count`` slices of side x side chips, the last slice first."""
    places = itertools.product(range(count), range(side), range(side))
    made = [Fake(s, (x, y, 0), i, **kind) for i, (s, x, y) in enumerate(places)]
    return made[::-1]


@pytest.mark.parametrize(
    "sizes", [(2, -1, 1, 1), (2, 4, 4, 1), (2, -1, 2, 1), (4, -1, 1, 1), (-1, 4, 2, 1)]
)
def test_between_slices_goes_replica_alone(sizes):
    made = mesh.make_mesh(MeshConfig(*sizes), slices(2, 4))
    replicas = made.devices.reshape(made.shape["replica"], -1)
    within = [{device.slice_index for device in replica} for replica in replicas]
    half = len(within) // 2
    assert within == [{0}] * half + [{1}] * half
    assert set(made.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize("sizes", [(1, -1, 1, 1), (2, -1, 1, 1), (-1, 24, 1, 1)])
def test_replica_that_is_no_multiple_of_the_slices(sizes):
    with pytest.raises(ConfigError, match=r"mesh\.replica is . on 3 TPU .* a multiple of 3"):
        mesh.make_mesh(MeshConfig(*sizes), slices(3, 4))


@pytest.mark.parametrize("sizes", [(1, -1, 1, 1), (2, -1, 1, 1), (4, -1, 1, 1)])
def test_gpu_nodes_are_filled_one_by_one(sizes):
    """To JAX each is a slice; their ids need not follow their slices."""
    nodes = slices(2, 2, platform="gpu", device_kind="NVIDIA H100")
    nodes = [dataclasses.replace(node, id=7 - node.id) for node in nodes]
    made = mesh.make_mesh(MeshConfig(*sizes), nodes)
    assert [device.slice_index for device in made.devices.flat] == [0] * 4 + [1] * 4
    assert dict(made.shape)["fsdp"] == 8 // sizes[0]
