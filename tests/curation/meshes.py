"""Meshes of the simulated devices, and a compiler that takes its time where numbers are many."""

import contextlib

import jax
from jax.sharding import AxisType, Mesh


def mesh_of(devices: int) -> Mesh:
    return jax.make_mesh(
        (devices,), ("all",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


@contextlib.contextmanager
def optimized():
    """Programs compiled in here run at full speed: conftest.py turns optimisation off."""
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
