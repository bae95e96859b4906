"""The 13 rates of the linear probe trained at once, in turns with one after the other.

Twice: on random crops, whose features are made anew at each step, and on features made once. The
images are noise; what is timed is steps of training, both programs doing the same.
"""

import argparse
import dataclasses
import functools
import statistics
from collections.abc import Callable

import numpy as np

from benchmarks.pairs import alternate, ratios
from benchmarks.report import heading, processor, table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="vit_small", help="of the backbone; random weights")
    parser.add_argument("--crop", type=int, default=64, help="pixels")
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4, help="of one training")
    parser.add_argument("--threads", type=int, default=2, help="processors, the same for both")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    sizes = {name: getattr(arguments, name) for name in ("crop", "batch", "classes", "steps")}
    rows = []
    for augment, name in ((True, "random crops"), (False, "features made once")):
        make = functools.partial(make_training, arch=arguments.arch, augment=augment, **sizes)
        makes = {
            "at once": functools.partial(make, at_once=True),
            "one by one": functools.partial(make, at_once=False),
        }
        timings = alternate(makes, threads=arguments.threads, rounds=arguments.turns)
        rows.append(row(name, timings))
    print(heading(processor(), "jax"))
    print(
        f"{arguments.arch}, {arguments.crop} px, batch {arguments.batch}, {arguments.classes} "
        f"classes, {arguments.steps} steps, {arguments.threads} threads, {arguments.turns} turns\n"
    )
    print(table(COLUMNS, rows))


COLUMNS = ("trained on", "at once s", "one by one s", "ratio", "range", "in CPU-seconds", "range")


def row(name: str, timings: dict) -> list[str]:
    """Above 1: at once is faster."""
    once, alone = timings["at once"], timings["one by one"]
    cells = [name, *(f"{statistics.median(x.wall):.2f}" for x in (once, alone))]
    for pair in ((alone.wall, once.wall), (alone.cpu, once.cpu)):
        middle, low, high = ratios(*pair)
        cells += [f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
    return cells


@dataclasses.dataclass(frozen=True)
class Noise:
    """Stands for a split: images are noise, held in memory."""

    images: np.ndarray  # uint8 [n, h, w, 3]
    labels: np.ndarray  # int32 [n]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> np.ndarray:
        return self.images[index]


def make_training(
    threads: int,
    *,
    arch: str,
    crop: int,
    batch: int,
    classes: int,
    steps: int,
    augment: bool,
    at_once: bool,
) -> Callable[[], np.ndarray]:
    """A step is the whole training; it returns the kernels [13, F, K]."""
    import jax

    from configs import base
    from dinov3_jax.config import MeshConfig
    from dinov3_jax.distributed.mesh import make_mesh
    from dinov3_jax.evals.classification import inputs, probe
    from dinov3_jax.evals.classification.linear import LinearSettings
    from dinov3_jax.models.model import random_model
    from dinov3_jax.models.presets import complete
    from dinov3_jax.recipe import from_config_dict

    del threads  # the process is pinned to that many processors, and XLA counts them
    rng, mesh = np.random.default_rng(0), make_mesh(MeshConfig(1, 1, 1, 1), jax.devices()[:1])
    noise = rng.integers(0, 256, (4 * batch, crop * 5 // 4, crop * 3 // 2, 3), np.uint8)
    split = Noise(noise, rng.integers(0, classes, len(noise)).astype(np.int32))
    recipe = base.get_config()
    recipe.student.arch, recipe.student.dtype = arch, "float32"
    backbone = random_model(arch, complete(from_config_dict(recipe).student))
    see = inputs.see(backbone, mesh, 1)
    span = inputs.spans(backbone, (1,), (True,))[1, True]
    cells = probe.grid([span], LinearSettings("").lrs, [0.0])
    rows = None
    if not augment:
        rows = inputs.split_inputs(see, split, mesh, resize=crop, crop=crop, batch=batch)

    def train(cells):
        if augment:
            batches = inputs.augmented_batches(see, split, mesh, crop=crop, batch=batch, seed=0)
        else:
            batches = inputs.cached_batches(rows, split.labels, mesh, batch=batch, seed=0)
        trained = probe.train(cells, batches, classes=classes, steps=steps, mesh=mesh)
        return np.asarray(trained.classifiers[span].kernel)  # [F, cells, K]

    if at_once:
        return lambda: train(cells).swapaxes(0, 1)
    return lambda: np.concatenate([train([cell]).swapaxes(0, 1) for cell in cells])


if __name__ == "__main__":
    main()
