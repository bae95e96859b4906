"""Two programs in turns, each in its own process: on a busy machine only their ratio counts."""

import importlib.util
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.report import heading, processor, table

Make = Callable[[int], Callable[[], object]]  # threads -> a step that returns when it is done


class Timing(NamedTuple):
    start_up: float  # s, from the start of the process to the end of its first step
    wall: list[float]  # s, of each step
    cpu: list[float]  # s, of all threads of the process, of each step


def alternate(makes: Mapping[str, Make], *, threads: int, rounds: int) -> dict[str, Timing]:
    """Times ``rounds`` steps of each program, one after the other in turns.

    ``makes`` are functions of a module that imports neither jax nor torch at its top. All processes
    are pinned to the same ``threads`` processors, sleep while another works, and have run one step
    before the first turn. ``RuntimeError`` if one of them dies.
    """
    processors = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(processors):
        raise ValueError(
            f"threads is {threads}, wanted 1 to {len(processors)}, the processors here"
        )
    context = multiprocessing.get_context("spawn")
    workers, timings = {}, {}
    try:
        for name, make in makes.items():
            ours, theirs = context.Pipe()
            target = (theirs, make, processors[:threads])
            process = context.Process(target=_serve, args=target, daemon=True)
            started = time.perf_counter()
            process.start()
            theirs.close()  # or the end of the process would not be noticed
            workers[name] = (process, ours)
            _receive(name, ours)
            timings[name] = Timing(time.perf_counter() - started, [], [])
        for turn in range(rounds):
            for name, (_, connection) in workers.items():
                connection.send(True)
                wall, cpu = _receive(name, connection)
                timings[name].wall.append(wall)
                timings[name].cpu.append(cpu)
                print(f"turn {turn}, {name}: {wall:.2f} s, {cpu:.2f} CPU-s", file=sys.stderr)
    finally:
        for process, connection in workers.values():
            connection.close()
            process.join()
    return timings


def _receive(name, connection):
    try:
        return connection.recv()
    except EOFError:
        raise RuntimeError(f"the process of {name!r} ended; what it died of stands above") from None


def _serve(connection, make: Make, processors: list[int]) -> None:
    os.sched_setaffinity(0, processors)
    # Idle OpenMP threads must not spin on the processors of the other process.
    os.environ |= {"OMP_NUM_THREADS": str(len(processors)), "OMP_WAIT_POLICY": "PASSIVE"}
    step = make(len(processors))
    step()
    connection.send(True)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        connection.send((time.perf_counter() - wall, time.process_time() - cpu))


def ratios(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    """Median, smallest and largest of the quotients of steps in the same turn."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return statistics.median(each), min(each), max(each)


def against(
    makes: dict[str, Make],
    packages: Mapping[str, tuple[str, str]],
    *,
    what: str,
    threads: int,
    turns: int,
) -> None:
    """Prints the table of ``rivals`` of "ours" and those of ``makes`` whose package is here.

    ``packages``: name -> (module, name for pip). ``what`` is timed, for the line above the table.
    """
    for name, (module, pip) in packages.items():
        if importlib.util.find_spec(module) is None:
            print(f"{name} is left out: pip install {pip} to compare with it.")
            del makes[name]
    timings = alternate(makes, threads=threads, rounds=turns)
    print(heading(processor(), "jax", *(packages[name][1] for name in makes if name in packages)))
    print(f"{what}, {threads} threads, {turns} turns\n")
    print(rivals(timings))


def rivals(timings: Mapping[str, Timing]) -> str:
    """Table of programs against that called "ours": a ratio above 1 says that ours is faster."""
    columns = ("", "s a step", "CPU-s", "its s / ours", "range", "its CPU-s / ours", "range")
    rows, ours = [], timings["ours"]
    for name, its in timings.items():
        cells = [name, f"{statistics.median(its.wall):.2f}", f"{statistics.median(its.cpu):.2f}"]
        for pair in ((its.wall, ours.wall), (its.cpu, ours.cpu)):
            middle, low, high = ratios(*pair)
            cells += [f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
        rows.append(cells)
    return table(columns, rows)


def compare(makes: Mapping[str, Make], *, threads: list[int], rounds: int) -> None:
    """Prints the table of programs "torch" and "jax", a row for each number of threads."""
    rows = [row(n, alternate(makes, threads=n, rounds=rounds)) for n in threads]
    print(heading(processor(), "jax", "torch", "transformers") + f"; {rounds} turns\n")
    print(table(COLUMNS, rows))


COLUMNS = ("threads", "PyTorch s", "JAX s", "PyTorch / JAX", "range", "in CPU-seconds", "range",
           "start-up s, PyTorch", "JAX")  # fmt: skip


def row(threads: int, timings: dict[str, Timing]) -> list[str]:
    """Of the table with ``COLUMNS``, for programs "torch" and "jax".

    On a busy machine the ratio of CPU-seconds is the steadier one; with one thread it is what the
    ratio of seconds would be on an idle machine.
    """
    torch, jax = timings["torch"], timings["jax"]
    cells = [str(threads), *(f"{statistics.median(t.wall):.2f}" for t in (torch, jax))]
    for pair in ((torch.wall, jax.wall), (torch.cpu, jax.cpu)):
        middle, low, high = ratios(*pair)
        cells += [f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
    return [*cells, f"{torch.start_up:.0f}", f"{jax.start_up:.0f}"]
