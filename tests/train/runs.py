"""A whole run in miniature, for tests of the loop and the command line.

``python -m tests.train.runs FOLDER WORKDIR [key=value ...]`` trains it in a process of its own.
"""

import ast
import sys

import cv2
import jax
import numpy as np

from configs import base
from dinov3_jax import checkpoint
from dinov3_jax.config import MeshConfig, TrainConfig
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train.state import init_state, state_shardings


def tiny_recipe(folder, **overrides):
    """12 steps of a one-block ViT on 16-pixel crops; ``overrides`` are "a.b" -> value."""
    recipe = base.get_config()
    recipe.name, recipe.steps = "tiny", 12
    recipe.batch.images, recipe.batch.group = 8, 4
    student = recipe.student
    student.patch_size, student.embed_dim, student.depth, student.num_heads = 8, 16, 1, 2
    student.dtype, student.drop_path = "float32", 0.25
    for head in (recipe.dino.head, recipe.ibot.head):
        head.prototypes, head.hidden, head.bottleneck = 16, 16, 8
    recipe.optim.lr = base.schedule(1e-3, start=0.0, end=0.0, warmup=2)
    recipe.optim.freeze_last_layer = 1
    recipe.teacher.temperature = base.schedule(0.07)
    crops = recipe.crops
    crops.global_size, crops.local_size, crops.local_count = 16, 8, 2
    recipe.data.path, recipe.data.augment = str(folder), "host"
    recipe.data.threads, recipe.data.buffer = 1, 1
    recipe.eval.every, recipe.eval.health_images = 100, 8
    recipe.checkpoint.every, recipe.log.every = 4, 1
    recipe.mesh.fsdp = 1
    for key, value in overrides.items():
        section = recipe
        *parents, last = key.split(".")
        for parent in parents:
            section = section[parent]
        section[last] = value
    return recipe


def tiny_config(folder, **overrides) -> TrainConfig:
    return from_config_dict(tiny_recipe(folder, **overrides))


def write_images(folder, count=20, *, classes=1, size=24):
    """``count`` noisy gradients as PNG files in ``classes`` sub-folders."""
    rng = np.random.default_rng(0)
    for i in range(count):
        target = folder / f"class{i % classes}"
        target.mkdir(parents=True, exist_ok=True)
        ramp = np.linspace(0, 200, size)[:, None, None] * rng.uniform(size=3)
        image = (ramp + rng.uniform(0, 50, (size, size, 3))).astype(np.uint8)
        cv2.imwrite(str(target / f"{i:03}.png"), image)
    return folder


def final_state(workdir, config):
    """The newest checkpoint of a run, on one device."""
    mesh = make_mesh(MeshConfig(1, 1, 1, 1), jax.devices()[:1])
    shapes = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))
    abstract = checkpoint.abstract(shapes, state_shardings(config, mesh))
    with checkpoint.open_checkpoints(workdir, config.checkpoint) as manager:
        return checkpoint.restore(manager, abstract)


def assert_equal_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


if __name__ == "__main__":
    from dinov3_jax.train.loop import train

    pairs = (argument.split("=", 1) for argument in sys.argv[3:])
    train(
        tiny_config(sys.argv[1], **{key: ast.literal_eval(value) for key, value in pairs}),
        sys.argv[2],
    )
