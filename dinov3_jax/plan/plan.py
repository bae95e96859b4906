"""``plan``: one topology, one recipe, everything that can be known before a chip is paid for."""

import dataclasses
import itertools
import math
from typing import Any

from jax.sharding import AbstractMesh, AxisType

from dinov3_jax.config import ConfigError, MeshConfig, TrainConfig
from dinov3_jax.data.resolution import crops_at
from dinov3_jax.distributed.mesh import AXES, mesh_sizes
from dinov3_jax.plan import estimate, hlo
from dinov3_jax.plan.compile import abstract_state, compile_for
from dinov3_jax.plan.topology import Topology
from dinov3_jax.train.check import check_recipe
from dinov3_jax.train.flops import step_flops


def plan(
    configs: dict[str, TrainConfig],
    topology: Topology,
    *,
    codegen: bool = False,
    price: float | None = None,
) -> dict[str, Any]:
    """The plan as plain data (written as JSON; ``report.text`` prints it).

    ``configs`` by name of the student. ``codegen`` compiles to machine code: minutes instead of
    seconds, and the compiler's word on peak memory and cycles. ``price`` in money per chip-hour.
    With ``crops.mixture`` everything speaks of a step of the largest sizes, which need the most
    memory, but "whole_run": there a mean step is at the MFU bound of that largest one.
    """
    sizes = mesh_sizes(next(iter(configs.values())).mesh, topology.chips)
    mesh = AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    for each in configs.values():
        check_recipe(each, mesh, platform="tpu" if topology.compiles else "gpu")
    mixed, configs = configs, {name: _largest(config) for name, config in configs.items()}
    config = next(iter(configs.values()))
    states, frozen = abstract_state(configs, mesh)
    parts = estimate.state_bytes(states, frozen)
    result: dict[str, Any] = {
        "recipe": config.name,
        "topology": topology.name,
        "chips": topology.chips,
        "mesh": dict(zip(AXES, sizes)),
        "remat": config.student.remat,
        "remat_blocks": config.student.remat_blocks,
        "images_per_step": config.batch.images,
        "crops": (config.crops.global_size, config.crops.local_size),
        "flops": estimate.flops_rows(configs),
        "checkpoint_bytes": sum(estimate.checkpoint_bytes(c) for c in configs.values()),
    }
    found, cycles, peak = [], None, None
    if topology.compiles:
        compiled = compile_for(configs, topology, codegen=codegen)
        total, peak = hlo.packed_bytes(compiled.memory), compiled.peak_bytes
        result["error"] = compiled.error
        result["compile_seconds"] = round(compiled.seconds, 1)
        if compiled.machine:
            cycles = hlo.cycles(compiled.machine)
        if compiled.program:
            found = hlo.collectives(compiled.program)
            result["collectives"] = estimate.collective_rows(found)
        whole = peak or total
        source = "compiler, peak" if peak else "compiler, upper count before packing"
        activations = None if whole is None else max(whole - sum(parts.values()), 0)
    else:
        activations = sum(estimate.activation_bytes(c, topology.chips) for c in configs.values())
        whole, source = sum(parts.values()) + activations, "estimate"
    room = estimate.capacity(topology)
    result["memory"] = {
        **parts,
        "activations": activations,
        "total": whole,
        "source": source,
        "capacity": room,
        "fits": whole is not None and whole <= room and not result.get("error"),
    }
    time = estimate.step_time(configs, topology, found, cycles)
    result["time"] = {**time._asdict(), "bound": time.bound, "mfu_bound": time.mfu}
    mean = step_flops(mixed) / step_flops(configs)
    result["whole_run"] = _whole_run(configs, topology, time.bound * mean, price)
    result["whole_run"]["mean_of_largest"] = mean
    return result


def _largest(config):
    """The recipe with the largest sizes of ``crops.mixture`` for all of its steps."""
    sizes = config.crops.mixture or [()]
    index = max(range(len(sizes)), key=lambda i: sizes[i][:2])
    return dataclasses.replace(config, crops=crops_at(config.crops, index))


def _whole_run(configs, topology, seconds, price):
    """``seconds`` of the mean step."""
    config = next(iter(configs.values()))
    steps = max(c.steps for c in configs.values())
    hours = steps * seconds * topology.chips / 3600
    rate = config.batch.images / seconds
    return {
        "steps": steps,
        "images": steps * config.batch.images,
        "days": steps * seconds / 86400,
        "chip_hours": hours,
        "price_per_chip_hour": price,
        "money": None if price is None else hours * price,
        "images_per_second": rate,
        "host_cores": rate / estimate.host_rate(config.data),
    }


def candidates(config: TrainConfig, topology: Topology) -> list[TrainConfig]:
    """The layouts, remat policies and batches that ``--sweep`` tries.

    Meshes: FSDP over all chips on two axes as equal as they can be, and the same in 4 replicas.
    Remat: three policies from much memory to little. Batch: the recipe's, and twice it, where its
    groups divide over the chips.
    """
    each = config.batch.group * config.batch.accumulate * topology.chips
    meshes = []
    for replicas in (1, 4):
        chips, rest = divmod(topology.chips, replicas)
        if rest or chips < 4:
            continue
        minor = max(d for d in range(1, math.isqrt(chips) + 1) if chips % d == 0)
        meshes.append(MeshConfig(replicas, chips // minor, minor, 1))
    remats = ("qkv+attention+proj+fc1", "attention+proj+fc1", "full")
    if config.student.convnext:
        remats = ("none", "dots", "full")
    made = []
    for mesh, remat, times in itertools.product(meshes, remats, (1, 2)):
        batch = dataclasses.replace(config.batch, images=config.batch.images * times)
        if batch.images % each:
            continue
        student = dataclasses.replace(config.student, remat=remat, remat_blocks=0)
        made.append(dataclasses.replace(config, mesh=mesh, batch=batch, student=student))
    return made


def sweep(config: TrainConfig, topology: Topology, *, price: float | None = None):
    """Yields the plan of each of ``candidates``; ``ConfigError`` if there are none."""
    tried = candidates(config, topology)
    if not tried:
        raise ConfigError(
            f"no layout of {topology.chips} chips shares {config.batch.images} images a step "
            f"in groups of {config.batch.group}; change batch.images or batch.group"
        )
    for candidate in tried:
        yield plan({"": candidate}, topology, price=price)


def rank(plans: list[dict]) -> list[dict]:
    """Those that fit, fastest per image first: time bound with what ``remat`` computes again."""

    def seconds(made):
        flops, time = made["flops"], made["time"]
        # The compiler's cycles have it already.
        again = 0.0 if time["compiler"] else flops["recomputed"] / flops["image"]
        return time["bound"] * (1 + again) / made["images_per_step"]

    return sorted((p for p in plans if p["memory"]["fits"]), key=seconds)
