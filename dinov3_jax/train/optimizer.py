"""AdamW as DINOv3 uses it: per-parameter factors, per-network clipping, scheduled scalars.

Parameter trees are {backbone, dino_head, ibot_head}. Learning rate and weight decay arrive as
arguments of each step, so the optimizer state is Adam's moments alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dinov3_jax.config import OptimConfig
from dinov3_jax.distributed.sharding import path_name
from dinov3_jax.types import Params

_FIRST = ("patch_embed", "cls_token", "storage_tokens", "mask_token")  # layer 0 of the decay
_UNDECAYED = ("bias", "scale", "gamma")


class Factors(NamedTuple):
    """Trees like the parameters; leaves broadcast against them."""

    lr: Params
    weight_decay: Params


def factors(params: Params, config: OptimConfig) -> Factors:
    """What multiplies lr and weight decay at each parameter.

    lr, backbone: layer_decay^(Z+1-i) with i = 0 for patch embedding and special tokens, i = z+1 for
    block z, i = Z+1 for the final norms; the patch embedding further times ``patch_embed_lr``.
    Heads and a ConvNeXt, which has no such blocks: 1. Weight decay: 0 for biases, norm scales and
    LayerScale, else 1 (CLS, storage and mask tokens included, and the norm scales between the
    stages of a ConvNeXt, as in the reference).
    """
    blocks = params["backbone"].get("blocks")
    if blocks is None:
        ones = jax.tree.map(lambda _: jnp.float32(1.0), params)
        return Factors(ones, _weight_decay(params))
    depth = jax.tree.leaves(blocks)[0].shape[0]

    def lr(path, leaf):
        name = path_name(path)
        if not name.startswith("backbone/"):
            return jnp.float32(1.0)
        if name.startswith("backbone/blocks/"):
            decay = config.layer_decay ** (depth - jnp.arange(depth, dtype=jnp.float32))
            return decay.reshape(-1, *[1] * (leaf.ndim - 1))  # one factor a block
        if not any(first in name for first in _FIRST):
            return jnp.float32(1.0)
        patch = config.patch_embed_lr if "patch_embed" in name else 1.0
        return jnp.float32(config.layer_decay ** (depth + 1) * patch)

    return Factors(jax.tree_util.tree_map_with_path(lr, params), _weight_decay(params))


def _weight_decay(params):
    def decay(path, leaf):
        name = path_name(path)
        decayed = name.endswith("scale") and "downsample" in name
        return 1.0 if decayed or name.rsplit("/", 1)[-1] not in _UNDECAYED else 0.0

    return jax.tree_util.tree_map_with_path(decay, params)


def clip(grads: Params, limit: float | None) -> tuple[Params, dict[str, jax.Array]]:
    """Scales each network's gradient by min(1, limit / (norm + 1e-6)); returns the norms too."""
    norms = {name: optax.tree.norm(tree) for name, tree in grads.items()}
    if limit is None:
        return grads, norms
    scales = {name: jnp.minimum(1.0, limit / (norm + 1e-6)) for name, norm in norms.items()}
    clipped = {k: optax.tree.scale(scales[k], tree) for k, tree in grads.items()}
    return clipped, norms


def init(params: Params, config: OptimConfig) -> optax.OptState:
    return _adam(config).init(params)


def update(
    grads: Params,
    opt_state: optax.OptState,
    params: Params,
    *,
    config: OptimConfig,
    lr: jax.Array,
    backbone_lr: jax.Array,
    last_layer_lr: jax.Array,
    weight_decay: jax.Array,
) -> tuple[Params, optax.OptState]:
    """θ <- θ - η·f·(m̂ / (√v̂ + 1e-8) + λ·d·θ).

    η: ``backbone_lr`` in the backbone, ``last_layer_lr`` on the prototypes, else ``lr``. f, d:
    ``factors``; λ: ``weight_decay``. Returns new parameters and moments; moments advance even where
    η is 0.
    """
    direction, opt_state = _adam(config).update(grads, opt_state)
    table = factors(params, config)

    def step(path, theta, direction, lr_factor, decay):
        name = path_name(path)
        rate = last_layer_lr if "prototypes" in name else lr
        rate = backbone_lr if name.startswith("backbone/") else rate
        return theta - rate * lr_factor * (direction + weight_decay * decay * theta)

    new = jax.tree_util.tree_map_with_path(step, params, direction, table.lr, table.weight_decay)
    return new, opt_state


def _adam(config):
    return optax.scale_by_adam(config.beta1, config.beta2, eps=1e-8)
