import pytest

from dinov3_jax.distributed.chips import CHIPS
from dinov3_jax.distributed.compiler import compiler_options


def test_only_tpus_have_options():
    assert compiler_options("cpu") == {}
    assert compiler_options("NVIDIA H100 80GB HBM3") == {}
    assert "xla_tpu_scoped_vmem_limit_kib" in compiler_options("TPU v5 lite")


@pytest.mark.parametrize("kind", [*CHIPS["v5p"].kinds, *CHIPS["v6e"].kinds[:1]])
def test_sparse_cores_move_what_they_can(kind):
    """v5e has none."""
    key = "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter"
    assert compiler_options(kind)[key] is True  # a bool: the compiler takes no 1
    assert key not in compiler_options("TPU v5 lite")


def test_the_caller_may_change_what_it_gets():
    compiler_options("TPU v5 lite").clear()
    assert compiler_options("TPU v5 lite")
