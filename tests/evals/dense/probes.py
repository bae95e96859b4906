"""Batches of constructed tokens for probes."""

import itertools

import jax.numpy as jnp
import numpy as np

from dinov3_jax.evals.dense.probe import Recipe


def recipe(**changes):
    """60 steps at a constant rate, of one candidate."""
    values = dict(
        lr=(1e-2,),
        weight_decay=(1e-3,),
        steps=60,
        schedule=lambda step: 1.0,
        beta1=lambda step: 0.9,
        beta2=0.999,
        clip=None,
        dropout=0.0,
        seed=0,
    )
    return Recipe(**(values | changes))


def endless(make):
    """Batches ``make(i)`` of numpy arrays, i = 0, 1 ..., on the device."""
    for i in itertools.count():
        yield tuple(jnp.asarray(x) for x in make(i))


def block_labels(seed, n=4, classes=4, grid=8, block=2, pixels=4):
    """Labels uint8 [n, grid·pixels, grid·pixels] of square blocks of patches, and the classes of
    the patches int [n, grid, grid]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (n, grid // block, grid // block))
    patches = coarse.repeat(block, 1).repeat(block, 2)
    return patches.repeat(pixels, 1).repeat(pixels, 2).astype(np.uint8), patches


def one_hot(patches, classes, width=8):
    """Tokens float32 [..., width]: the class, and noise in the other channels."""
    tokens = np.random.default_rng(0).standard_normal((*patches.shape, width))
    tokens[..., :classes] = np.eye(classes)[patches]
    return tokens.astype(np.float32)
