"""Modules with random parameters: at birth biases are 0, scales 1 and the mask token 0."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dinov3_jax.config import VitConfig
from dinov3_jax.models import presets
from tests.tiny import tiny_config


def student(**changes) -> VitConfig:
    return dataclasses.replace(presets.complete(tiny_config().student), **changes)


def build(make, *, seed: int = 0):
    """``make(rngs)`` with every parameter drawn anew from N(0, 0.3²), never initialised."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    rng = np.random.default_rng(seed)
    draw = lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32)  # noqa: E731
    return nnx.merge(graph, jax.tree.map(draw, shapes))


def weights(module):
    """Plain float64 dicts."""
    pure = nnx.to_pure_dict(nnx.state(module))
    return jax.tree.map(lambda x: np.asarray(x, np.float64), pure)
