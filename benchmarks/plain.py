"""The baseline of ``benchmarks.train``: the same vision transformer, written without care.

One crop size after the other, a Python loop over the blocks, attention by two einsums and a
softmax, and stochastic depth that computes every sample and then multiplies some by 0. Parameters,
heads, losses and optimizer are the library's, so a step costs more for these reasons alone.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from dinov3_jax.config import ConfigError, TrainConfig
from dinov3_jax.models import build, presets, rope
from dinov3_jax.models.build import Networks
from dinov3_jax.models.vit import VisionTransformer
from dinov3_jax.types import Features


class PlainTransformer(VisionTransformer):
    """``VisionTransformer`` with another ``forward``; its random numbers are drawn otherwise."""

    def forward(self, crops, *, masks=None, keys=None, layout=None) -> tuple[Features, ...]:
        if layout is not None:
            raise ValueError("the plain transformer runs on one device; use a mesh of one")
        masks = masks or (None,) * len(crops)
        keys = [None] * len(crops) if keys is None else jax.random.split(keys[0], len(crops))
        return tuple(self._forward(*arguments) for arguments in zip(crops, masks, keys))

    def _forward(self, images, mask, key):
        config = self.config
        x = self.patch_embed(images.astype(config.dtype))
        n, h, w, dim = x.shape
        x = x.reshape(n, h * w, dim)
        if mask is not None:
            x = jnp.where(mask[..., None], self.mask_token[...].astype(x.dtype), x)
        special = [self.cls_token[...][None]]
        if config.storage_tokens:
            special.append(self.storage_tokens[...])
        special = jnp.concatenate(special).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(special, (n, *special.shape)), x], axis=1)
        graph, params = nnx.split(self.blocks)
        for index in range(config.depth):
            block = nnx.merge(graph, jax.tree.map(lambda p, i=index: p[i], params))
            keys = (
                [None] * 3 if key is None else jax.random.split(jax.random.fold_in(key, index), 3)
            )
            sincos = self._angles((h, w), keys[0])
            for norm, branch, scale, drop_key in (
                (block.norm1, lambda y, a=block.attn, s=sincos: attention(a, y, s), "ls1", keys[1]),
                (block.norm2, block.ffn, "ls2", keys[2]),
            ):
                out = branch(norm(x))
                out = getattr(block, scale)(out) if block.scaled else out
                x = x + drop_path(out, config.drop_path, drop_key)
        prefix, normed = 1 + config.storage_tokens, self.norm(x)
        return Features(normed[:, 0], normed[:, 1:prefix], normed[:, prefix:], x)

    def _angles(self, grid, key):
        config = self.config
        coords = rope.coordinates(*grid, normalize=config.rope_normalize)
        if key is not None:
            coords = rope.perturb(
                coords,
                key,
                shift=config.rope_shift,
                jitter=config.rope_jitter,
                rescale=config.rope_rescale,
            )
        periods = rope.periods(
            config.embed_dim // config.num_heads,
            base=config.rope_base,
            min_period=config.rope_min_period,
            max_period=config.rope_max_period,
        )
        angles = rope.angles(coords, periods)[:, None]  # [N, 1, C]
        return jnp.sin(angles).astype(config.rope_dtype), jnp.cos(angles).astype(config.rope_dtype)


def attention(attn, x, sincos):
    """The parameters of ``layers.Attention`` in the textbook's formula, [n, T, D]."""
    n, tokens, dim = x.shape
    qkv = x @ attn.qkv.kernel[...].astype(x.dtype)
    if attn.qkv.bias is not None:
        bias = attn.qkv.bias[...]
        bias = bias.at[dim : 2 * dim].set(0.0) if attn.mask_k_bias else bias
        qkv = qkv + bias.astype(x.dtype)
    q, k, v = jnp.moveaxis(qkv.reshape(n, tokens, 3, attn.heads, dim // attn.heads), 2, 0)
    q, k = rope.rotate(q, *sincos), rope.rotate(k, *sincos)
    scores = jnp.einsum("ntac,nsac->nats", q, k).astype(jnp.float32)
    weights = jax.nn.softmax(scores / jnp.sqrt(q.shape[-1]), axis=-1).astype(x.dtype)
    return attn.proj(jnp.einsum("nats,nsac->ntac", weights, v).reshape(x.shape))


def drop_path(x, probability, key):
    if key is None or probability == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - probability, (len(x), 1, 1))
    return jnp.where(kept, x / (1.0 - probability), 0.0).astype(x.dtype)


def plain_networks(config: TrainConfig) -> Networks:
    """``build.networks`` with the plain backbone; parameters fit both."""
    student = presets.complete(config.student)
    if config.student.convnext or (
        student.untie_cls_and_patch_norms or student.untie_global_and_local_cls_norm
    ):
        raise ConfigError(
            f"the baseline is a ViT with one final norm, student is {student.arch!r} with "
            "untied norms or no ViT; take --no-baseline"
        )
    backbone = nnx.eval_shape(lambda: PlainTransformer(student, rngs=nnx.Rngs(0)))
    return build.networks(config)._replace(backbone=nnx.graphdef(backbone))
