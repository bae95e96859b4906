"""Metres a pixel of a frozen backbone and a DPT head."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dinov3_jax.models.dpt import DptConfig, DptHead, resize
from dinov3_jax.models.model import Model
from dinov3_jax.types import Params

# Mean and std of pixels in 0..1 that the canopy head was trained on; the satellite backbones' red
# mean is 0.430.
CANOPY = ((0.420, 0.411, 0.296), (0.213, 0.156, 0.143))


@dataclasses.dataclass(frozen=True, eq=False)
class DepthHead:
    """A DPT head with its weights, for ``depth``."""

    config: DptConfig
    params: Params  # float32


def random_depth_head(config: DptConfig, *, seed: int = 0) -> DepthHead:
    """A head as training would start it."""
    make = jax.jit(lambda: nnx.to_pure_dict(nnx.state(DptHead(config, rngs=nnx.Rngs(seed)))))
    return DepthHead(config, make())


def head_shapes(config: DptConfig) -> Params:
    """The tree of ``DepthHead.params`` with shapes in place of arrays; nothing is computed."""
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: DptHead(config, rngs=nnx.Rngs(0)))))


def depth(model: Model, head: DepthHead, images: jax.Array) -> jax.Array:
    """Metres, float32 [n, H, W], of normalised images [n, H, W, 3] with sides of whole patches.

    The head's map has 32 ⌈h/2⌉ x 32 ⌈w/2⌉ pixels of an h x w grid; where that is not H x W it is
    resized (bilinear, corners aligned). Raises ``ValueError`` if the head was made for a backbone
    of another width, for more blocks, or if the backbone is a ConvNeXt.
    """
    wanted, blocks = head.config, getattr(model.config, "depth", None)
    if blocks is None:
        raise ValueError(f"{model.name} has no blocks; a depth head wants a vision transformer")
    if model.config.embed_dim != wanted.backbone_dim or max(wanted.layers) >= blocks:
        raise ValueError(
            f"the head reads blocks {wanted.layers} (0-based) of width {wanted.backbone_dim}; "
            f"{model.name} has {blocks} of width {model.config.embed_dim}: give the backbone that "
            "the head was trained on"
        )
    features = model.intermediate_layers(images, wanted.layers)
    size, stride = images.shape[1:3], model.stride
    grid = (size[0] // stride, size[1] // stride)
    return _metres(head.params, features, config=wanted, grid=grid, size=size)


@functools.partial(jax.jit, static_argnames=("config", "grid", "size"))
def _metres(params, features, *, config, grid, size):
    graph = nnx.graphdef(nnx.eval_shape(lambda: DptHead(config, rngs=nnx.Rngs(0))))
    metres = bin_mean(nnx.merge(graph, params)(features, grid), config)
    return resize(metres[..., None], size, align_corners=True)[..., 0]


def bin_depths(config: DptConfig) -> np.ndarray:
    """Metres of each bin, float32 [bins].

    "linear": uniform from ``min_depth`` to ``max_depth``. "mixlog": the same up to
    m = ``max_depth`` / 8, mixed with log-uniform ones, (1 - t) · log + t · linear with t rising
    from 0 to 1, then 8 times that.
    """
    if config.binning == "linear":
        return np.linspace(config.min_depth, config.max_depth, config.bins, dtype=np.float32)
    low, high = config.min_depth, config.max_depth / 8
    linear = np.linspace(low, high, config.bins)
    log = np.exp(np.linspace(np.log(low), np.log(high), config.bins))
    t = np.linspace(0, 1, config.bins)
    return (8 * ((1 - t) * log + t * linear)).astype(np.float32)


def bin_mean(logits: jax.Array, config: DptConfig) -> jax.Array:
    """[..., bins] -> metres [...]: Σ w d / Σ w over bins of depth d, w = relu(logit) + ε.

    ε is 0.1 for "linear" and 1e-8 for "mixlog", so that logits of which none is positive give the
    mean of all bins.
    """
    weights = jax.nn.relu(logits) + {"linear": 0.1, "mixlog": 1e-8}[config.binning]
    depths = jnp.asarray(bin_depths(config))
    # At full precision: on accelerators the default would round depths to 8 bits.
    total = jnp.einsum("...k,k->...", weights, depths, precision=jax.lax.Precision.HIGHEST)
    return total / weights.sum(-1)
