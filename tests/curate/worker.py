"""What one of several processes does for tests/curate/test_hosts.py.

``python -m tests.curate.worker SETS OUT [--budget=N] --coordinator=... ...``
"""

import argparse
import pathlib

from dinov3_jax.cli import hosts
from dinov3_jax.config import MeshConfig
from dinov3_jax.curate.recipe import SampleConfig
from dinov3_jax.distributed.mesh import make_mesh


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--budget", type=int, default=16)
    hosts.add_flags(parser)
    options = parser.parse_args()
    hosts.join(options)
    from tests.curate.test_curate import run  # asks for devices, which is too early above

    mesh = make_mesh(MeshConfig(-1, 1, 1, 1))
    run(options.sets, options.out, on=mesh, sample=SampleConfig(budget=options.budget))


if __name__ == "__main__":
    main()
