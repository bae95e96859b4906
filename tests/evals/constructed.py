"""Models whose features are formulas, so that the score of an evaluation is known beforehand."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dinov3_jax.models.model import Model
from dinov3_jax.types import Features
from tests.features.models import vit_config


@dataclasses.dataclass(frozen=True, eq=False)
class Constructed(Model):
    """Patch tokens [n, N, D] are ``tokens`` of patches [n, N, p, p, 3] in 0..1; CLS is their mean.

    Every layer has the same, normed or not.
    """

    tokens: Callable[[jax.Array], jax.Array] = dataclasses.field(kw_only=True)

    def __call__(self, images):
        (n, height, width, _), p = images.shape, self.stride
        patches = images.reshape(n, height // p, p, width // p, p, 3).swapaxes(2, 3)
        tokens = self.tokens(patches.reshape(n, -1, p, p, 3))
        return Features(tokens.mean(axis=1), tokens[:, :0], tokens, tokens)

    def intermediate_layers(self, images, layers, *, norm=True):
        count = layers if isinstance(layers, int) else len(layers)
        return (self(images),) * count


def pixels(patch_size):
    """A patch is its pixels, apart from their mean: what shows the same is alike."""

    def tokens(patches):
        flat = patches.reshape(*patches.shape[:2], -1)
        return flat - flat.mean(axis=-1, keepdims=True)

    return _model("pixels", patch_size, tokens)


def levels(patch_size, channels=(0, 1, 2)):
    """A patch is the mean level of each channel (0, 16 ... 240), and knows of no other channel."""

    def tokens(patches):
        mean = 255 / 16 * patches[..., jnp.array(channels)].mean(axis=(2, 3))
        peaks = jnp.exp(-(((mean[..., None] - jnp.arange(16)) / 0.4) ** 2))
        return peaks.reshape(*peaks.shape[:2], -1)

    return _model("levels", patch_size, tokens)


def noise(patch_size):
    """A patch is noise of its own, whose seed is the bits of the image: images that differ have
    nothing in common."""

    def tokens(patches):
        bits = jax.lax.bitcast_convert_type(patches, jnp.uint32).reshape(len(patches), -1)
        seeds = (bits * (2 * jnp.arange(bits.shape[1], dtype=jnp.uint32) + 1)).sum(axis=1)
        shape = (patches.shape[1], 32)
        return jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), shape))(seeds)

    return _model("noise", patch_size, tokens)


def constant(patch_size):
    """All patches of all images are equal."""
    return _model("constant", patch_size, lambda patches: jnp.ones((*patches.shape[:2], 8)))


def _model(name, patch_size, tokens):
    zeros, ones = (0.0,) * 3, (1.0,) * 3
    return Constructed(name, vit_config(patch_size), {}, zeros, ones, tokens=tokens)
