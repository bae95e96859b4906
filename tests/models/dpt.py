"""Depth heads so small that they compile in seconds, with the options of the published ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dinov3_jax.models.depth import DepthHead, head_shapes
from dinov3_jax.models.dpt import CHMV2, SYNTHMIX

_SIZES = dict(backbone_dim=16, layers=(0, 1, 2, 3), fusion_dim=8, hidden=6, bins=16)
TINY = {
    "synthmix": dataclasses.replace(SYNTHMIX, channels=(12, 12, 12, 12), **_SIZES),
    "chmv2": dataclasses.replace(CHMV2, channels=(4, 8, 12, 16), **_SIZES),
}


def drawn_head(config, *, seed: int = 0) -> DepthHead:
    """Every parameter random; kernels keep the scale of what they are given, variances positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        value = rng.standard_normal(leaf.shape)
        if path[-1].key == "var":
            value = np.abs(value) + 0.5
        elif path[-1].key == "kernel":
            value /= np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            value *= 0.3
        return jnp.asarray(value, jnp.float32)

    return DepthHead(config, jax.tree_util.tree_map_with_path(draw, head_shapes(config)))
