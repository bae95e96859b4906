"""The TPU kernel compiled for chips that this machine does not have: pytest -m tpu_aot.

It needs libtpu beside jaxlib (0.0.52 for 0.10.2) and JAX_PLATFORMS=cpu.
"""

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec as P

from dinov3_jax.config import MeshConfig
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.distributed.sharding import BATCH_AXES
from dinov3_jax.models.attention import attention, platform
from tests import collectives

pytestmark = pytest.mark.tpu_aot

# Four chips of each kind: topology, accelerator.
CHIPS = {
    "v5e": ("v5e:2x2", "v5litepod-4"),
    "v5p": ("v5p:2x2x1", "v5p-8"),
    "v6e": ("v6e:2x2", "v6e-4"),
}


@pytest.fixture(params=CHIPS)
def chips(request, monkeypatch):
    """A mesh of four chips that share the batch."""
    pytest.importorskip("libtpu", reason="no libtpu: pip install libtpu==0.0.52")
    topology, accelerator = CHIPS[request.param]
    # Without these libtpu asks the cloud what machine it is on, and allows one process at a time.
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", accelerator)
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    monkeypatch.delenv(
        "XLA_FLAGS", raising=False
    )  # of conftest.py, for the CPU: libtpu ends the process at them
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    return make_mesh(MeshConfig(1, 4, 1, 1), list(devices))


# Crops of 256 and 112 pixels of the 7B, a global crop of the ViT-L; then high resolution: crops of
# 512 and 768 pixels, and of 1152 pixels, which the Gram teacher sees.
@pytest.mark.parametrize(
    ("T", "A", "C", "images"),
    [
        (261, 32, 128, 32),
        (54, 32, 128, 32),
        (201, 16, 64, 32),
        (1029, 32, 128, 4),
        (2309, 32, 128, 4),
        (5189, 32, 128, 4),
    ],
)
def test_kernel_compiles_where_auto_is_asked_for(chips, T, A, C, images):
    """Forward and backward fit into VMEM and talk to nobody; no [T, T] array is left in HBM.

    The tokens are padded as the backbone pads them.
    """
    rows = T + -T % 8

    def run(qkv, sin, cos, dout):
        call = lambda qkv: attention(qkv, sin, cos, implementation="auto", tokens=T)  # noqa: E731
        out, vjp = jax.vjp(call, qkv)
        return out, *vjp(dout)

    with jax.set_mesh(chips):
        assert platform() == "tpu"
        sharding = NamedSharding(chips, P(BATCH_AXES))
        qkv = jax.ShapeDtypeStruct((images, rows, 3, A, C), "bfloat16", sharding=sharding)
        dout = jax.ShapeDtypeStruct((images, rows, A, C), "bfloat16", sharding=sharding)
        sin = jax.ShapeDtypeStruct((4, T - 5, C), "float32", sharding=sharding)
        compiled = jax.jit(run).lower(qkv, sin, sin, dout).compile()
    program = compiled.as_text()
    assert program.count('custom_call_target="tpu_custom_call"') == 2
    assert not collectives.find(program)
    assert f"{T},{T}]" not in program
    assert f"{rows},{rows}]" not in program
