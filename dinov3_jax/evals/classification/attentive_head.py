"""A small transformer on frozen patch tokens that ends in one learned query and a linear layer.

tokens -> linear to E, plus sin and cos of (t, y, x) -> pre-norm blocks of self-attention with a
rotary embedding of (t, y, x) -> cross-attention of one learned query -> norm -> linear.

The rotary embedding gives a third of the pairs of a head to each axis, after y and x were turned by
an angle of the head's own, so that heads look along other directions. Positions come with the
tokens: their order says nothing. Source: DINOv3, arXiv 2508.10104, appendix D.6.
"""

import jax
import jax.numpy as jnp

from dinov3_jax.config import ConfigError
from dinov3_jax.models import rope
from dinov3_jax.types import Params

# Of sin and cos, shortest and longest, where an axis of the clip is 1 long. The shortest is no
# whole part of 1, or the first frame and the last would look alike.
PERIODS = (0.3, 10.0)
_EPSILON = 1e-5  # of the norms


def positions(frames: int, h: int, w: int) -> jax.Array:
    """(t, y, x) in [0, 1] of all patches of a clip, float32 [frames * h * w, 3], frame by frame.

    The first frame is at 0, the last at 1; rows and columns are at the centres of their patches.
    """
    t = jnp.linspace(0.0, 1.0, frames)
    y, x = ((jnp.arange(n) + 0.5) / n for n in (h, w))
    return jnp.stack(jnp.meshgrid(t, y, x, indexing="ij"), axis=-1).reshape(-1, 3)


def check(width: int, heads: int) -> None:
    """``ConfigError`` unless each head has an even width, of at least a pair for each axis."""
    if heads < 1 or width % (2 * heads) or width // heads < 6:
        raise ConfigError(
            f"width is {width}, heads {heads}; wanted width a multiple of {2 * max(heads, 1)}, "
            f"at least {6 * max(heads, 1)}"
        )


def init(key: jax.Array, *, inputs: int, classes: int, width: int, blocks: int) -> Params:
    """Fresh float32 parameters: matrices N(0, 1 / inputs), biases 0, norms 1 and 0."""
    keys = iter(jax.random.split(key, 10))

    def linear(fan_in, fan_out, *stack):
        kernel = jax.random.normal(next(keys), (*stack, fan_in, fan_out))
        return {"kernel": fan_in**-0.5 * kernel, "bias": jnp.zeros((*stack, fan_out))}

    def norm(*stack):
        return {"scale": jnp.ones((*stack, width)), "bias": jnp.zeros((*stack, width))}

    return {
        "embed": linear(inputs, width),
        "blocks": {
            "norm1": norm(blocks),
            "qkv": linear(width, 3 * width, blocks),
            "proj": linear(width, width, blocks),
            "norm2": norm(blocks),
            "fc1": linear(width, 4 * width, blocks),
            "fc2": linear(4 * width, width, blocks),
        },
        "norm": norm(),
        "query": jax.random.normal(next(keys), (width,)),
        "kv": linear(width, 2 * width),
        "pool": linear(width, width),
        "pool_norm": norm(),
        "head": linear(width, classes),
    }


def logits(params: Params, tokens: jax.Array, positions: jax.Array, *, heads: int) -> jax.Array:
    """Tokens float32 [B, T, D] at positions [T, 3] -> logits [B, K]."""
    x = _linear(params["embed"], tokens)
    width = x.shape[-1]
    plain = _angles(positions, width // 2)  # [T, E/2]
    x = x + jnp.concatenate([jnp.sin(plain), jnp.cos(plain)], axis=-1)
    turned = _angles(_by_head(positions, heads), width // heads // 2)  # [T, A, C/2]
    turned = jnp.concatenate([turned, turned], axis=-1)
    sincos = jnp.sin(turned), jnp.cos(turned)

    @jax.checkpoint  # attention over all frames is the memory of this network
    def block(x, p):
        q, k, v = _heads(_linear(p["qkv"], _norm(p["norm1"], x)), 3, heads)
        q, k = (rope.rotate(part, *sincos) for part in (q, k))
        attended = jax.nn.dot_product_attention(q, k, v)
        x = x + _linear(p["proj"], attended.reshape(x.shape))
        hidden = jax.nn.gelu(_linear(p["fc1"], _norm(p["norm2"], x)), approximate=False)
        return x + _linear(p["fc2"], hidden), None

    x, _ = jax.lax.scan(block, x, params["blocks"])
    k, v = _heads(_linear(params["kv"], _norm(params["norm"], x)), 2, heads)
    query = params["query"].reshape(1, 1, heads, -1)
    query = jnp.broadcast_to(query, (len(x), *query.shape[1:]))  # [B, 1, A, C]
    pooled = jax.nn.dot_product_attention(query, k, v).reshape(len(x), width)
    pooled = params["query"] + _linear(params["pool"], pooled)
    return _linear(params["head"], _norm(params["pool_norm"], pooled))


def _angles(positions, pairs):
    """[..., 3] -> [..., pairs]: a third of them for each axis, what is over for time."""
    each = pairs // 3
    counts = (pairs - 2 * each, each, each)
    low, high = PERIODS
    parts = [
        positions[..., axis, None] / rope.periods(4 * n, min_period=low, max_period=high)
        for axis, n in enumerate(counts)
    ]
    return 2.0 * jnp.pi * jnp.concatenate(parts, axis=-1)


def _by_head(positions, heads):
    """[T, 3] -> [T, A, 3]: y and x turned by one random angle a head, always the same ones."""
    angle = jax.random.uniform(jax.random.key(0), (heads,), maxval=2.0 * jnp.pi)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    t, y, x = (positions[:, None, axis] for axis in range(3))  # [T, 1]
    t = jnp.broadcast_to(t, (len(positions), heads))
    return jnp.stack([t, cos * y - sin * x, sin * y + cos * x], axis=-1)


def _heads(x, parts, heads):
    """[B, T, parts E] -> ``parts`` arrays [B, T, A, C]."""
    x = x.reshape(*x.shape[:2], parts, heads, -1)
    return (x[:, :, i] for i in range(parts))


def _linear(p, x):
    return x @ p["kernel"] + p["bias"]


def _norm(p, x):
    x = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x).mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(variance + _EPSILON) * p["scale"] + p["bias"]
