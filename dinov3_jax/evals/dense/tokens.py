"""Patch tokens of a frozen backbone that stay on the devices: what a probe trains on.

``features.extract`` hands out numpy arrays; a probe reads the tokens of a batch once, where they
are.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dinov3_jax.augment.normalize import normalize
from dinov3_jax.distributed import sharding
from dinov3_jax.distributed.mesh import batch_shards
from dinov3_jax.features.extract import whole_batch
from dinov3_jax.models.model import Model

Tokens = Callable[[np.ndarray], jax.Array]


def frozen_tokens(model: Model, mesh: Mesh) -> Tokens:
    """A function of images uint8 [n, H, W, 3], H and W multiples of ``model.stride``.

    It returns the patch tokens after the last layer and the final norm, float32 [n, h, w, D], on
    the grid of ``intermediate_layers``. Every device computes an equal part of the images, filled
    up with black ones where they cannot be shared evenly, and the tokens lie as ``spread`` says.
    One compilation for each shape of images. No gradient: parameters are not arguments of a loss.
    """
    specs = sharding.param_specs(model.params, mesh)
    params = jax.device_put(model.params, sharding.named(specs, mesh))

    @functools.partial(jax.jit, static_argnames="count")
    def forward(params, images, *, count):
        frozen = dataclasses.replace(model, params=params)
        pixels = normalize(images, mean=model.mean, std=model.std)
        found = frozen.intermediate_layers(pixels, 1)[0].patch_tokens.astype(jnp.float32)
        stride = getattr(model.config, "patch_size", None) or model.stride
        h, w = (side // stride for side in images.shape[1:3])
        found = found.reshape(len(found), h, w, -1)[:count]  # [n, h, w, D]
        return jax.lax.with_sharding_constraint(found, spread(count, mesh))

    def tokens(images):
        count = len(images)
        padded = np.zeros((whole_batch(count, mesh), *images.shape[1:]), np.uint8)
        padded[:count] = images
        with jax.set_mesh(mesh):
            placed = jax.device_put(padded, sharding.batch_sharding(mesh))
            return forward(params, placed, count=count)

    return tokens


def spread(count: int, mesh: Mesh) -> NamedSharding:
    """How ``count`` rows lie on ``mesh``: shared evenly, or, where that is not possible, whole on
    every device. So a batch keeps its size, and a probe its scores, on any mesh."""
    even = count % batch_shards(mesh) == 0
    return sharding.batch_sharding(mesh) if even else NamedSharding(mesh, P())


def mean_colour(model: Model) -> tuple[int, ...]:
    """Levels of the pixel that ``model`` sees as about 0: what images are filled up with."""
    return tuple(round(255 * level) for level in model.mean)
