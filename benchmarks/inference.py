"""Features on a CPU against eager PyTorch: ``python -m benchmarks.inference``.

ViT-B/16 with storage tokens, 8 images of 224 pixels, float32, random weights: our forward and that
of ``transformers``, in alternating turns as in ``benchmarks.torch_step``.
"""

import argparse

from benchmarks import pairs
from configs import base

IMAGES, SIZE = 8, 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    makes = {"torch": torch_forward, "jax": jax_forward}
    pairs.compare(makes, threads=arguments.threads, rounds=arguments.rounds)


def recipe():
    config = base.get_config()
    config.student.arch, config.student.dtype = "vit_base", "float32"
    return config


def torch_forward(threads: int):
    import torch
    import transformers

    from benchmarks import eager
    from dinov3_jax.models import presets
    from dinov3_jax.recipe import from_config_dict

    torch.set_num_threads(threads)
    student = presets.complete(from_config_dict(recipe()).student)
    model = transformers.DINOv3ViTModel(eager.vit_config(student, SIZE)).eval()
    images = torch.randn(IMAGES, 3, SIZE, SIZE)

    @torch.inference_mode()
    def forward():
        return model(images).last_hidden_state

    return forward


def jax_forward(threads: int):
    """XLA takes as many threads as the process has processors."""
    import jax
    from flax import nnx

    from dinov3_jax.models import build
    from dinov3_jax.recipe import from_config_dict

    config = from_config_dict(recipe())
    graph = build.networks(config).backbone
    params = jax.jit(lambda: build.init_params(config, jax.random.key(0))["backbone"])()
    images = jax.random.normal(jax.random.key(1), (IMAGES, SIZE, SIZE, 3))
    compiled = jax.jit(lambda p, x: nnx.merge(graph, p)(x))
    return lambda: jax.block_until_ready(compiled(params, images))


if __name__ == "__main__":
    main()
