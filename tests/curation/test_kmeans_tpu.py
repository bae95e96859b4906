"""The assignment step of k-means compiled for chips that are not here: pytest -m tpu_aot.

DINOv3's 200 million clusters of the lowest level are 2 million coarse ones, each split in 100. The
coarse step has to hold all its centroids and their sums at once; so has a flat one of 200 million.
"""

import jax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from dinov3_jax.curation.kmeans import assignment_step, padded
from dinov3_jax.curation.stream import ROWS, tile
from dinov3_jax.distributed.chips import CHIPS
from dinov3_jax.plan.topology import parse_topology, tpu_devices

pytestmark = pytest.mark.tpu_aot


@pytest.mark.parametrize(("topology", "k"), [("v5p:4x4x4", 2_000_000), ("v5p:8x8x4", 200_000_000)])
def test_the_assignment_step_fits_v5p(topology, k):
    pytest.importorskip("libtpu", reason="no libtpu: pip install libtpu==0.0.52")
    devices = tpu_devices(parse_topology(topology))
    mesh = jax.make_mesh((len(devices),), ("all",), axis_types=(AxisType.Auto,), devices=devices)

    def shape(sizes, dtype, spec):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=NamedSharding(mesh, spec))

    D, K, m = 1024, padded(k, mesh), ROWS * mesh.size  # one row tile a device
    centroids = shape((K, D), "float32", P("all"))
    compiled = assignment_step.lower(
        shape((m, D), "bfloat16", P("all")),
        shape((), "int32", P()),
        centroids,
        shape((), "int32", P()),
        centroids,
        shape((K,), "int32", P("all")),
        mesh=mesh,
        width=tile(k),
    ).compile()
    memory = compiled.memory_analysis()
    # Centroids and sums in float32, shared out, are all but the chunk and its products.
    held = 2 * K * D * 4 / mesh.size
    print(f"{topology}, k = {k:,}: peak {memory.peak_memory_in_bytes / 2**30:.2f} GiB a chip")
    assert held < memory.peak_memory_in_bytes < CHIPS["v5p"].hbm_bytes
