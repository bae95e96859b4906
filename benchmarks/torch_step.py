"""The CPU train step against eager PyTorch: ``python -m benchmarks.torch_step``.

ViT-S/16, 4 images, float32, crops of 2 x 224 and 8 x 96 pixels, 8,192 prototypes; no stochastic
depth. The two (``train.step.train_step`` and ``benchmarks/eager.py``, which does the same work) run
in processes of their own, pinned to the same processors, in alternating steps; what counts is the
median of the ratios of the two steps of a turn. Needs torch and transformers: ``pip install -e
.[parity]``.
"""

import argparse
import functools

from benchmarks import pairs
from configs import base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--prototypes", type=int, default=8192)
    arguments = parser.parse_args()
    makes = {
        name: functools.partial(make, arguments.prototypes)
        for name, make in (("torch", torch_step), ("jax", jax_step))
    }
    pairs.compare(makes, threads=arguments.threads, rounds=arguments.rounds)


def recipe(prototypes: int):
    config = base.get_config()
    config.batch.images = config.batch.group = 4
    config.student.dtype = "float32"
    config.dino.head.prototypes = config.ibot.head.prototypes = prototypes
    # Both start where nothing is frozen.
    config.optim.freeze_last_layer = 0
    return config


def torch_step(prototypes: int, threads: int):
    import torch

    from benchmarks import eager
    from benchmarks.synthetic import random_batch
    from dinov3_jax.recipe import from_config_dict

    torch.set_num_threads(threads)
    config = from_config_dict(recipe(prototypes))
    return eager.make_step(config, eager.as_torch(random_batch(config)))


def jax_step(prototypes: int, threads: int):
    """XLA takes as many threads as the process has processors."""
    import jax

    from benchmarks.synthetic import random_batch
    from dinov3_jax.models import build
    from dinov3_jax.recipe import from_config_dict
    from dinov3_jax.train.state import init_state
    from dinov3_jax.train.step import train_step

    config = from_config_dict(recipe(prototypes))
    networks, key, batch = build.networks(config), jax.random.key(0), random_batch(config)
    state = jax.jit(lambda: init_state(config, key))()
    compiled = jax.jit(
        lambda s, b: train_step(s, b, key, config=config, networks=networks), donate_argnums=0
    )

    def step() -> float:
        nonlocal state
        state, metrics = jax.block_until_ready(compiled(state, batch))
        return float(metrics["loss/total"])

    return step


if __name__ == "__main__":
    main()
