"""Time of a train step, images/s and model FLOPs utilisation: ``python -m benchmarks.train``.

The step of the ViT-L ImageNet-1k recipe (``configs/vitl16_im1k.py``) with a ViT-S, B or L, on
synthetic batches, on the devices at hand. What a row says:

- start-up: from the first import to the end of the first step, as if that model ran alone;
- compile: tracing, lowering and XLA, without a compilation cache;
- step: median over rounds; images/s and TFLOP/s of all devices;
- MFU: model FLOPs (``dinov3_jax/train/flops.py``) over the peak of the chips for bfloat16
  (``dinov3_jax/distributed/chips.py``); "-" where that is not known, as of a CPU.

``--baseline``, the default on one GPU, times ``benchmarks/plain.py`` too, in alternating steps; the
last column is the median ratio of a baseline step to the step after it.
"""

import argparse
import functools
import statistics
import time
from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import STARTED
from benchmarks.plain import plain_networks
from benchmarks.report import heading, jax_devices, table
from benchmarks.synthetic import random_batch
from configs import vitl16_im1k
from dinov3_jax.config import MeshConfig, TrainConfig
from dinov3_jax.distributed.chips import chip
from dinov3_jax.distributed.mesh import batch_sharding, make_mesh
from dinov3_jax.models import build
from dinov3_jax.models.build import Networks
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train.flops import step_flops
from dinov3_jax.train.state import create_state, state_shardings
from dinov3_jax.train.step import train_step

IMPORTED = time.perf_counter() - STARTED

# Preset and stochastic depth of the recipes of this project; B as S.
SIZES = {"s": ("vit_small", 0.1), "b": ("vit_base", 0.1), "l": ("vit_large", 0.3)}
COLUMNS = ("step", "start-up s", "compile s", "step s", "images/s", "TFLOP/s", "MFU", "x baseline")


class Program(NamedTuple):
    """A compiled step with its arguments, and what it took to have it."""

    step: jax.stages.Compiled
    batch: tuple
    start_up: float  # s, imports included
    compiling: float  # s


def main() -> None:
    platform = jax.devices()[0].platform
    cpu, one_gpu = platform == "cpu", platform == "gpu" and jax.device_count() == 1
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["s"] if cpu else list(SIZES))
    parser.add_argument("--batch", type=int, default=4 if cpu else 64, help="images a device")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32" if cpu else "bfloat16"
    )
    parser.add_argument("--rounds", type=int, default=5 if cpu else 20, help="timed steps")
    parser.add_argument(
        "--baseline",
        action=argparse.BooleanOptionalAction,
        default=one_gpu,
        help="time benchmarks/plain.py too; one device alone",
    )
    arguments = parser.parse_args()
    rows, mesh = [], make_mesh(MeshConfig(replica=1, fsdp=-1, fsdp_minor=1, tensor=1))
    for size in arguments.sizes:
        config = recipe(size, images=arguments.batch, dtype=arguments.dtype)
        rows += measure(config, mesh, rounds=arguments.rounds, baseline=arguments.baseline)
    print(
        f"{heading(jax_devices(), 'jax')}; {arguments.batch} images a device, {arguments.dtype}\n"
    )
    print(table(COLUMNS, rows))


def recipe(size: str, *, images: int, dtype: str) -> TrainConfig:
    """``images`` on each device, which form one group."""
    arch, drop_path = SIZES[size]
    config = vitl16_im1k.get_config()
    config.name = arch
    config.batch.images, config.batch.group = images * jax.device_count(), images
    config.student.arch, config.student.drop_path = arch, drop_path
    config.student.dtype = config.student.rope_dtype = dtype
    return from_config_dict(config)


def measure(config: TrainConfig, mesh: Mesh, *, rounds: int, baseline: bool) -> list[list[str]]:
    """Rows of the table: the step, and with ``baseline`` the plain one, which take turns."""
    with jax.set_mesh(mesh):
        variants = {config.name: build.networks(config)}
        if baseline:
            variants[f"{config.name}, plain"] = plain_networks(config)
        programs, states, seconds = {}, {}, {name: [] for name in variants}
        for name, networks in variants.items():
            programs[name], states[name] = prepare(config, networks, mesh)
        for _ in range(rounds):
            for name in reversed(variants):
                program, started = programs[name], time.perf_counter()
                made = program.step(states.pop(name), *program.batch)
                states[name], _ = jax.block_until_ready(made)
                seconds[name].append(time.perf_counter() - started)
    return [row(name, config, programs[name], seconds, devices=mesh.size) for name in variants]


def prepare(config: TrainConfig, networks: Networks, mesh: Mesh):
    """(program, state after its first step)."""
    started = time.perf_counter()
    state = create_state(config, mesh)
    batch = jax.device_put(random_batch(config), batch_sharding(mesh))
    step = jax.jit(
        functools.partial(train_step, config=config, networks=networks),
        donate_argnums=0,
        out_shardings=(state_shardings(config, mesh), NamedSharding(mesh, PartitionSpec())),
    )
    arguments = (batch, jax.random.key(config.seed))
    ready = time.perf_counter()
    compiled = step.lower(state, *arguments).compile()
    compiling = time.perf_counter() - ready
    state, _ = jax.block_until_ready(compiled(state, *arguments))
    return Program(compiled, arguments, IMPORTED + time.perf_counter() - started, compiling), state


def row(
    name: str, config: TrainConfig, program: Program, seconds: dict, *, devices: int
) -> list[str]:
    step = statistics.median(seconds[name])
    rate = step_flops({"": config}) / step
    device = chip(jax.devices()[0].device_kind)
    mfu = "-" if device is None else f"{100 * rate / (device.flops * devices):.1f} %"
    ratio = statistics.median(b / s for b, s in zip(list(seconds.values())[-1], seconds[name]))
    return [
        name,
        f"{program.start_up:.1f}",
        f"{program.compiling:.1f}",
        f"{step:.3f}",
        f"{config.batch.images / step:.3g}",
        f"{rate / 1e12:.3g}",
        mfu,
        f"{ratio:.2f}" if len(seconds) > 1 else "-",
    ]


if __name__ == "__main__":
    main()
