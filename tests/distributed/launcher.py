"""Several processes of one run on this machine, each with CPU devices of its own."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def train(images, workdir, **changes) -> list[str]:
    """The command of a tiny run; ``changes`` are keys of the recipe."""
    recipe = f"--config=tests/distributed/tiny_recipe.py:{images}"
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    return ["dinov3_jax", "train", recipe, f"--workdir={workdir}", *flags]


@contextlib.contextmanager
def processes(command, folder, *, count: int, devices: int, start=None):
    """Context of the ``count`` processes of one run, or of those in ``start``; they end with it.

    ``command`` is a module and its flags. What process i says goes to ``folder/process_i.txt``.
    """
    environment = {
        **{k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "TQDM_DISABLE": "1",
        # Compiling is most of the time.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    port, running = free_port(), []
    with contextlib.ExitStack() as stack:
        for index in range(count) if start is None else start:
            flags = [
                f"--coordinator=127.0.0.1:{port}",
                f"--process_count={count}",
                f"--process_index={index}",
            ]
            out = stack.enter_context((folder / f"process_{index}.txt").open("w"))
            process = subprocess.Popen(
                [sys.executable, "-m", *command, *(flags if count > 1 else [])],
                cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)
            running.append(process)
        yield running


def said(folder, index: int) -> str:
    return (folder / f"process_{index}.txt").read_text()


def finish(command, folder, *, count: int, devices: int) -> None:
    """Runs all processes to a good end."""
    with processes(command, folder, count=count, devices=devices) as running:
        for index, process in enumerate(running):
            assert process.wait(timeout=600) == 0, said(folder, index)
