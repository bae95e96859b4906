"""Where the CLS token of a ViT looks: attention probabilities of one block, beside the hot path."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from dinov3_jax.config import ConfigError, ConvNextConfig
from dinov3_jax.models import rope
from dinov3_jax.models.block import Block
from dinov3_jax.models.layers import product
from dinov3_jax.models.model import Model, graph


def cls_attention(model: Model, images: jax.Array, layer: int) -> jax.Array:
    """Attention of CLS to the patches in block ``layer`` (0-based), float32 [n, A, h, w].

    ``images``: float [n, H, W, c], normalised. The softmax is over all T tokens: each of the A maps
    sums to 1 minus what CLS and storage tokens get. ``ConfigError`` for a ConvNeXt, which has no
    attention, and for a block that the model does not have.
    """
    config = model.config
    if isinstance(config, ConvNextConfig):
        raise ConfigError(
            f"{model.name} is a ConvNeXt, which has no attention; look at its pca or similarity"
        )
    if not 0 <= layer < config.depth:
        raise ConfigError(
            f"layer {layer} is asked of {model.name}, which has {config.depth} blocks; give one "
            f"from 0 to {config.depth - 1}"
        )
    return _maps(model.params, images, config=config, layer=layer)


@functools.partial(jax.jit, static_argnames=("config", "layer"))
def _maps(params, images, *, config, layer):
    vit = nnx.merge(graph(config), params)
    tokens, grid = vit._tokenize(images, None)
    if layer:
        tokens = vit._run((tokens[:, None],), [grid], None, 0, layer)[0][:, 0]
    block_graph, stacked = nnx.split(vit.blocks)
    block = nnx.merge(block_graph, jax.tree.map(lambda p: p[layer], nnx.to_pure_dict(stacked)))
    sincos = tuple(x[0] for x in vit.sincos(grid, None))  # [1, N, 1, C]
    maps = cls_probabilities(block, tokens, sincos)[..., 1 + config.storage_tokens :]
    return maps.reshape(*maps.shape[:2], *grid)


def cls_probabilities(
    block: Block, tokens: jax.Array, sincos: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """softmax(q k'ᵀ / √C) of the CLS query, float32 [n, A, T], for tokens [n, T, D] at a block.

    sin, cos [1, N, 1, C]. RoPE turns the keys of patches; it leaves CLS alone.
    """
    attn, x = block.attn, block.norm1(tokens)
    n, T, dim = x.shape
    qkv = product(x, attn.qkv.kernel[...], fp8=attn.fp8)
    if attn.qkv.bias is not None:
        bias = attn.qkv.bias[...]
        if attn.mask_k_bias:
            bias = bias.at[dim : 2 * dim].set(0.0)
        qkv = qkv + bias.astype(x.dtype)
    q, k, _ = (t.reshape(n, T, attn.heads, -1) for t in jnp.split(qkv, 3, axis=-1))
    k = rope.rotate(k, *sincos)
    scores = jnp.einsum("nac,ntac->nat", q[:, 0], k, preferred_element_type=jnp.float32)
    return jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1)
