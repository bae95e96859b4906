"""The assignment step of k-means compiled for chips that are not here: pytest -m tpu_aot.

DINOv3's 200 million clusters of the lowest level are 2 million coarse ones, each split in 100. The
coarse step has to hold all its centroids and their sums at once; so has a flat one of 200 million.
"""

import multiprocessing
import pathlib
import time

import jax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from dinov3_jax.curation.kmeans import assignment_step, padded
from dinov3_jax.curation.stream import ROWS, tile
from dinov3_jax.distributed.chips import CHIPS
from dinov3_jax.plan.hlo import packed_bytes
from dinov3_jax.plan.topology import parse_topology, tpu_devices

pytestmark = pytest.mark.tpu_aot

D = 1024
REPORT = "*after_optimizations-memory-usage-report.txt"


def compile_step(topology, k, folder):
    """In a process of its own."""
    devices = tpu_devices(parse_topology(topology))
    mesh = jax.make_mesh((len(devices),), ("all",), axis_types=(AxisType.Auto,), devices=devices)

    def shape(sizes, dtype, spec):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=NamedSharding(mesh, spec))

    K, m = padded(k, mesh), ROWS * mesh.size  # one row tile a device
    centroids = shape((K, D), "float32", P("all"))
    lowered = assignment_step.lower(
        shape((m, D), "bfloat16", P("all")),
        shape((), "int32", P()),
        centroids,
        shape((), "int32", P()),
        centroids,
        shape((K,), "int32", P("all")),
        mesh=mesh,
        width=tile(k),
    )
    lowered.compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})


def memory_report(topology, k, folder):
    """What the compiler says of memory; then it is stopped, for machine code takes minutes."""
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=compile_step, args=(topology, k, str(folder)), daemon=True)
    child.start()
    try:
        while not (found := [p for p in folder.glob(REPORT) if "assignment_step" in p.name]):
            assert child.is_alive() or child.exitcode == 0, f"the compiler died: {child.exitcode}"
            time.sleep(0.5)
        time.sleep(1.0)  # for the rest of the file
    finally:
        child.kill()
        child.join()
    return pathlib.Path(found[0]).read_text()


@pytest.mark.parametrize(("topology", "k"), [("v5p:4x4x4", 2_000_000), ("v5p:8x8x4", 200_000_000)])
def test_the_assignment_step_fits_v5p(topology, k, tmp_path):
    pytest.importorskip("libtpu", reason="no libtpu: pip install libtpu==0.0.52")
    total = packed_bytes(memory_report(topology, k, tmp_path))  # an upper count, before packing
    # Centroids and sums in float32, shared out, are all but the chunk and its products.
    held = 2 * k * D * 4 / parse_topology(topology).chips
    print(f"{topology}, k = {k:,}: at most {total / 2**30:.2f} GiB a chip")
    assert held < total < CHIPS["v5p"].hbm_bytes
