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
    last_layer: Params  # bool


def factors(params: Params, config: OptimConfig) -> Factors:
    """What multiplies lr and weight decay at each parameter.

    lr, backbone: layer_decay^(Z+1-i) with i = 0 for patch embedding and special tokens, i = z+1 for
    block z, i = Z+1 for the final norms; the patch embedding further times ``patch_embed_lr``.
    Heads: 1. Weight decay: 0 for biases, norm scales and LayerScale, else 1 (CLS, storage and mask
    tokens included, as in the reference).
    """
    depth = jax.tree.leaves(params["backbone"]["blocks"])[0].shape[0]

    def lr(path, leaf):
        name = path_name(path)
        if not name.startswith("backbone/"):
            return jnp.float32(1.0)
        if "/blocks/" in name:
            decay = config.layer_decay ** (depth - jnp.arange(depth, dtype=jnp.float32))
            return decay.reshape(-1, *[1] * (leaf.ndim - 1))  # one factor a block
        if not any(first in name for first in _FIRST):
            return jnp.float32(1.0)
        patch = config.patch_embed_lr if "patch_embed" in name else 1.0
        return jnp.float32(config.layer_decay ** (depth + 1) * patch)

    def weight_decay(path, leaf):
        return 0.0 if path_name(path).rsplit("/", 1)[-1] in _UNDECAYED else 1.0

    def last_layer(path, leaf):
        return "prototypes" in path_name(path)

    with_path = jax.tree_util.tree_map_with_path
    return Factors(
        with_path(lr, params), with_path(weight_decay, params), with_path(last_layer, params)
    )


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
    last_layer_lr: jax.Array,
    weight_decay: jax.Array,
) -> tuple[Params, optax.OptState]:
    """θ <- θ - η·f·(m̂ / (√v̂ + 1e-8) + λ·d·θ), with η = ``last_layer_lr`` on the prototypes.

    f, d: ``factors``; λ: ``weight_decay``. Returns new parameters and moments; moments advance even
    where η is 0.
    """
    direction, opt_state = _adam(config).update(grads, opt_state)
    table = factors(params, config)

    def step(theta, direction, lr_factor, decay, last):
        rate = (last_layer_lr if last else lr) * lr_factor
        return theta - rate * (direction + weight_decay * decay * theta)

    new = jax.tree.map(step, params, direction, table.lr, table.weight_decay, table.last_layer)
    return new, opt_state


def _adam(config):
    return optax.scale_by_adam(config.beta1, config.beta2, eps=1e-8)
