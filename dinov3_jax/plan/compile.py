"""The real train step, compiled for chips that are not here.

The compiler works in a process of its own. What it knows before it writes machine code (the
optimised program with its collectives, the memory of every buffer) takes seconds; then the process
is stopped, unless machine code (and with it the compiler's estimate of cycles) is asked for, which
takes minutes.
"""

import dataclasses
import functools
import multiprocessing
import tempfile
import time
import traceback
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec as P

from dinov3_jax.config import ConfigError, TrainConfig
from dinov3_jax.data.pipeline import train_batches
from dinov3_jax.data.record import Record
from dinov3_jax.distributed import sharding
from dinov3_jax.distributed.compiler import compiler_options
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.models import build
from dinov3_jax.plan.hlo import is_whole, packed_bytes
from dinov3_jax.plan.topology import Topology, tpu_devices
from dinov3_jax.train.program import BOOKKEEPING, step_program
from dinov3_jax.train.state import init_state, state_shardings

_REPORT = "after_optimizations-memory-usage-report.txt"
_PROGRAM = "after_optimizations.txt"
_MACHINE = "after_codegen.txt"
_PATIENCE = 120.0  # seconds for the rest of what the compiler has begun to write


class Compiled(NamedTuple):
    program: str  # optimised HLO
    machine: str  # the same after machine code was made, with estimated cycles; else ""
    memory: str  # the compiler's report of buffers before it packs them
    peak_bytes: int | None  # of a chip, arguments included; None without machine code
    seconds: float
    error: str  # what the compiler said if the program does not fit, else ""


def abstract_arguments(
    configs: dict[str, TrainConfig], mesh: Mesh
) -> tuple[dict, dict, Any, dict | None]:
    """(states, batch, key, frozen teacher) of ``step_program`` as shapes on ``mesh``.

    The batch has the shapes that the data pipeline gives: one group is read from a picture made up
    here. ``crops.mixture`` is None: a step has one size.
    """
    states, frozen = abstract_state(configs, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(mesh, P()))
    batch = _abstract_batch(next(iter(configs.values())), mesh)
    return states, batch, key, frozen


def abstract_state(
    configs: dict[str, TrainConfig], mesh: Mesh | AbstractMesh
) -> tuple[dict, dict | None]:
    """(states by name of the student, frozen teacher of a distillation) as shapes on ``mesh``."""
    shared = next(iter(configs.values()))
    states = {}
    for name, config in configs.items():
        states[name] = _abstract(init_state, config, state_shardings(config, mesh))
    frozen = None
    if shared.distill is not None:
        make = build.init_distill_params
        shapes = jax.eval_shape(lambda: make(shared, jax.random.key(0)))
        specs = sharding.param_specs(shapes, mesh)
        frozen = _abstract(make, shared, sharding.named(specs, mesh))
    return states, frozen


def _abstract(make, config, shardings):
    shapes = jax.eval_shape(lambda: make(config, jax.random.key(0)))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def _abstract_batch(config, mesh):
    one = dataclasses.replace(
        config,
        batch=dataclasses.replace(config.batch, images=config.batch.group, accumulate=1),
        data=dataclasses.replace(config.data, threads=1, workers=0, buffer=1),
    )
    side = config.crops.global_size
    picture: Any = [Record(np.zeros((side, side, 3), np.uint8), "plain", None)]
    (batch,) = train_batches(picture, one, start_step=0, stop_step=1)
    groups = config.batch.images // config.batch.group
    return {
        name: jax.ShapeDtypeStruct(
            (len(x) * groups, *x.shape[1:]), x.dtype, sharding=sharding.batch_sharding(mesh)
        )
        for name, x in batch.items()
        if name not in BOOKKEEPING
    }


def compile_for(configs: dict[str, TrainConfig], topology: Topology, *, codegen: bool) -> Compiled:
    """Compiles one step for a TPU topology; ``codegen``: to machine code. No ``crops.mixture``.

    Raises ``ConfigError`` for a recipe that does not lower; a program that does not fit into memory
    is a result (``Compiled.error``).
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = context.Pipe()
        child = context.Process(
            target=_compile, args=(configs, topology, folder, theirs), daemon=True
        )
        started = time.perf_counter()
        child.start()
        theirs.close()
        try:
            outcome = _outcome(child, ours, epath.Path(folder), codegen)
        finally:
            child.kill()
            child.join()
        if outcome.get("refused"):
            raise ConfigError(f"the step of this recipe does not lower: {outcome['refused']}")
        dumped = functools.partial(_dumped, epath.Path(folder))
        return Compiled(
            program=dumped(_PROGRAM),
            machine=dumped(_MACHINE),
            memory=dumped(_REPORT),
            peak_bytes=outcome.get("peak_bytes"),
            seconds=time.perf_counter() - started,
            error=outcome.get("error", ""),
        )


def _outcome(child, pipe, folder, codegen):
    """What the child says; {} once program and report of memory are on disk, if that is enough."""
    appeared = None
    while True:
        if pipe.poll(0.5):
            try:
                return pipe.recv()
            except EOFError:
                child.join()
                raise RuntimeError(f"the compiler's process died, exit {child.exitcode}") from None
        # They are the last things written before machine code, the smaller one often first.
        report = "" if codegen else _dumped(folder, _REPORT)
        if not report:
            continue
        lacking = []
        if packed_bytes(report) is None:
            lacking.append(f"'Total bytes' of the space with color=0 in {_REPORT}")
        if not is_whole(_dumped(folder, _PROGRAM)):
            lacking.append(f"the end of {_PROGRAM}")
        if not lacking:
            return {}
        appeared = appeared or time.monotonic()
        if time.monotonic() - appeared > _PATIENCE:
            raise RuntimeError(
                f"the compiler did not finish its reports within {_PATIENCE} s; it lacks "
                f"{' and '.join(lacking)}. --codegen does without"
            )


def _dumped(folder, end):
    """Text of the file that the compiler wrote of the step under that name, "" if there is none."""
    found = (p for p in folder.iterdir() if "jit_step" in p.name and p.name.endswith("." + end))
    return next((p.read_text() for p in found), "")


def _compile(configs, topology, folder, pipe):
    """In the child: sends a dict of results, or of the reason why there are none."""
    try:
        devices = tpu_devices(topology)
        shared = next(iter(configs.values()))
        mesh = make_mesh(shared.mesh, devices)
        with jax.set_mesh(mesh):
            arguments = abstract_arguments(configs, mesh)
            program = step_program(configs, mesh, shared.crops)
            lowered = program.lower(*arguments)
    except Exception:
        pipe.send({"refused": traceback.format_exc(limit=-3)})
        return
    options: dict[str, Any] = compiler_options(devices[0].device_kind) | {
        "xla_dump_to": folder,
        "xla_dump_hlo_as_text": True,
        "xla_dump_hlo_module_re": "jit_step.*",
    }
    try:
        compiled = lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            pipe.send({"refused": str(error)})
            return
        pipe.send({"error": str(error).splitlines()[0]})
        return
    memory: Any = compiled.memory_analysis()
    pipe.send({"peak_bytes": memory.peak_memory_in_bytes})
