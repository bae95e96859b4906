"""Compiler options of the train step, each with what it was measured to do (docs/design/0004)."""

from typing import Any

# Moves collectives to the SparseCores, where they run beside the matmuls. Without these the TPU
# compiler makes gathers and scatters of v5p and v6e synchronous.
_SPARSE_CORE = {
    "xla_tpu_enable_sparse_core_collective_offload_all_gather": True,
    "xla_tpu_enable_sparse_core_collective_offload_2d_all_gather": True,
    "xla_tpu_enable_sparse_core_collective_offload_3d_all_gather": True,
    "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": True,
    "xla_tpu_enable_sparse_core_collective_offload_nd_reduce_scatter": True,
    "xla_tpu_enable_sparse_core_collective_offload_all_reduce": True,
    "xla_tpu_enable_sparse_core_reduce_scatter_v2": True,
    "xla_sc_disable_megacore_partitioning": True,
    "xla_tpu_use_tc_device_shape_on_sc": True,
}

# KiB of vector memory that one fusion may use: 64 MiB let matmuls keep larger tiles.
_VMEM = {"xla_tpu_scoped_vmem_limit_kib": 65536}

_OPTIONS = {
    "TPU v5 lite": _VMEM,
    "TPU v5": _VMEM | _SPARSE_CORE,
    "TPU v5p": _VMEM | _SPARSE_CORE,
    "TPU v6 lite": _VMEM | _SPARSE_CORE,
}


def compiler_options(device_kind: str) -> dict[str, Any]:
    """Options for ``jax.stages.Lowered.compile``; none for a device without measured ones."""
    return dict(_OPTIONS.get(device_kind, {}))
