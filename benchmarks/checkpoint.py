"""Time to save and restore the state of a run: ``python -m benchmarks.checkpoint``.

A state of about ``--gigabytes`` (student, teacher and both moments in float32, of a ViT-S widened
until it is that large) goes through ``dinov3_jax/checkpoint.py``. Training waits for the blocking
part of a save, the background part runs beside it; all of a restore is waited for. Medians over
``--rounds``. What is restored has just been written, so that it may come from the memory in which
the operating system keeps files.
"""

import argparse
import statistics
import tempfile
import time

import jax
from etils import epath

from benchmarks.report import heading, jax_devices, table
from configs import vits16_im1k
from dinov3_jax import checkpoint
from dinov3_jax.config import CheckpointConfig, TrainConfig
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train.state import create_state, init_state, state_shardings

COLUMNS = ("part", "s", "GB/s")
_HEAD_WIDTH = 64  # of a ViT's attention


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of the state, about")
    parser.add_argument("--folder", help="where to write; default: a temporary one")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    config = sized(arguments.gigabytes * 1e9)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = measure(config, epath.Path(folder), rounds=arguments.rounds)
    print(
        f"{heading(jax_devices(), 'jax', 'orbax-checkpoint')}; {state_bytes(config) / 1e9:.2f} GB\n"
    )
    print(table(COLUMNS, rows))


def sized(size: float) -> TrainConfig:
    """The narrowest ViT-S of whole heads whose state has ``size`` bytes or more."""
    for heads in range(1, 256):
        config = vits16_im1k.get_config()
        config.student.embed_dim, config.student.num_heads = heads * _HEAD_WIDTH, heads
        made = from_config_dict(config)
        if state_bytes(made) >= size:
            return made
    raise ValueError(f"--gigabytes {size / 1e9:g} is above {state_bytes(made) / 1e9:.0f}")


def state_bytes(config: TrainConfig) -> int:
    shapes = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def measure(config: TrainConfig, workdir: epath.Path, *, rounds: int) -> list[list[str]]:
    """Rows of the table. A first round, which is not counted, warms up."""
    mesh = make_mesh(config.mesh)
    state = create_state(config, mesh)
    shapes = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))
    abstract = checkpoint.abstract(shapes, state_shardings(config, mesh))
    jax.block_until_ready(state)
    seconds = {"save, blocking": [], "save, background": [], "restore": []}
    keep = CheckpointConfig(every=1, keep=1, keep_every=None, local=None, local_every=1)
    with checkpoint.open_checkpoints(workdir, keep) as manager:
        for step in range(rounds + 1):
            marks = [time.perf_counter()]
            checkpoint.save(manager, state, step)
            marks.append(time.perf_counter())
            checkpoint.wait(manager)
            marks.append(time.perf_counter())
            jax.block_until_ready(checkpoint.restore(manager, abstract))
            marks.append(time.perf_counter())
            for values, start, end in zip(seconds.values(), marks, marks[1:]):
                values.append(end - start)
    size = state_bytes(config)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return [[name, f"{s:.3f}", f"{size / s / 1e9:.3g}"] for name, s in medians.items()]


if __name__ == "__main__":
    main()
