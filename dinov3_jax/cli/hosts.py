"""The flags with which the processes of one run find each other: docs/hosts.md."""

import argparse

import jax

from dinov3_jax.cli import logs
from dinov3_jax.distributed import hosts


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several processes", "found without flags on a TPU pod and in a SLURM step, else all three:"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0; a free port")
    group.add_argument("--process_count", type=int, metavar="N")
    group.add_argument("--process_index", type=int, metavar="I", help="of this one, 0 to N - 1")
    group.add_argument(
        "--start_timeout", type=int, metavar="SECONDS", default=300,
        help="how long to wait for all of them, 300 unless given",
    )  # fmt: skip


def join(options: argparse.Namespace) -> None:
    """Joins the other processes of the run, if there are any."""
    hosts.join(
        options.coordinator,
        options.process_count,
        options.process_index,
        timeout=options.start_timeout,
    )
    logs.set_up(jax.process_index())
