"""Accelerators that are not here: a TPU slice to compile for, or a number of GPUs."""

import math
import os
import re
from typing import NamedTuple

import jax

from dinov3_jax.config import ConfigError
from dinov3_jax.distributed.chips import CHIPS, Chip

TPUS = ("v4", "v5e", "v5p", "v6e")


class Topology(NamedTuple):
    name: str  # "v5p:8x8x4", "h100:256"
    generation: str  # key of ``CHIPS``
    chips: int
    compiles: bool  # a compiler for it can be had without the hardware

    @property
    def chip(self) -> Chip:
        return CHIPS[self.generation]


def parse_topology(name: str) -> Topology:
    """ "v5p:8x8x4" (chips along each axis of the torus) or "h100:256" (a number of GPUs).

    Raises ``ConfigError`` for anything else, naming what exists.
    """
    match = re.fullmatch(r"([\w-]+):(\d+(?:x\d+)*)", name)
    if match is None or match[1] not in CHIPS:
        raise ConfigError(
            f"topology {name!r}; wanted KIND:SHAPE with KIND one of {', '.join(CHIPS)}, for "
            "instance v5p:8x8x4, v6e:16x16 or h100:256"
        )
    sides = [int(side) for side in match[2].split("x")]
    tpu = match[1] in TPUS
    wanted = (3 if match[1] in ("v4", "v5p") else 2) if tpu else 1
    if len(sides) != wanted or min(sides) < 1:
        raise ConfigError(
            f"topology {name!r} has {len(sides)} sides; {match[1]} takes {wanted}, for instance "
            + {1: f"{match[1]}:64", 2: f"{match[1]}:4x4", 3: f"{match[1]}:4x4x4"}[wanted]
        )
    return Topology(name, match[1], math.prod(sides), tpu)


def tpu_devices(topology: Topology) -> list:
    """Devices to compile for; needs the package ``libtpu``, no TPU.

    Call it in a process that uses no TPU of its own: it tells libtpu to look for none.
    """
    n = topology.chips
    accelerators = {
        "v4": f"v4-{2 * n}", "v5e": f"v5litepod-{n}", "v5p": f"v5p-{2 * n}", "v6e": f"v6e-{n}"
    }  # fmt: skip
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1",
        TPU_ACCELERATOR_TYPE=accelerators[topology.generation],
        TPU_WORKER_HOSTNAMES="localhost",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )
    # libtpu ends the process on a flag that another backend was meant to get.
    os.environ.pop("XLA_FLAGS", None)
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    # The two cores of a v4 work as one device, which libtpu does by default on real chips alone.
    megacore = {"chip_config_name": "megacore"} if topology.generation == "v4" else {}
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **megacore
        )
    except Exception as error:
        raise ConfigError(
            f"no TPU compiler for {topology.name}: {type(error).__name__}: "
            f"{str(error).splitlines()[0]}. pip install libtpu; chips on each side must be "
            "multiples of those of a host (2 x 2, or 2 x 2 x 1)"
        ) from error
    return list(description.devices)
