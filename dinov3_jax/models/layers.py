"""The parts of a transformer block. Parameters are float32; ``config.dtype`` is the compute dtype.

Matrices start as N(0, 0.02²), biases at 0, norms at 1 and 0.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from dinov3_jax.config import CompleteVitConfig
from dinov3_jax.models import presets, rope

matrix_init = nnx.initializers.normal(0.02)


def linear(inputs: int, outputs: int, *, bias: bool, dtype: str, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(
        inputs, outputs, use_bias=bias, dtype=dtype, kernel_init=matrix_init, rngs=rngs
    )


def norm(config: CompleteVitConfig, rngs: nnx.Rngs) -> nnx.Module:
    """LayerNorm or RMSNorm over D: statistics in float32, result in the compute dtype."""
    if config.norm == "rmsnorm":
        return nnx.RMSNorm(
            config.embed_dim,
            epsilon=config.norm_eps,
            dtype=config.dtype,
            use_fast_variance=False,
            rngs=rngs,
        )
    return nnx.LayerNorm(
        config.embed_dim,
        epsilon=config.norm_eps,
        dtype=config.dtype,
        # E[x²] - E[x]² loses all digits in the few channels of huge magnitude that ViTs grow.
        use_fast_variance=False,
        rngs=rngs,
    )


class LayerScale(nnx.Module):
    """x · gamma, gamma [D] starting at ``init``."""

    def __init__(self, dim: int, init: float, *, dtype: str):
        self.gamma = nnx.Param(jnp.full((dim,), init, jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.gamma[...].astype(self.dtype)


class Attention(nnx.Module):
    """softmax(q kᵀ / √C) v over all T tokens of a sequence, RoPE on the patches' q and k.

    One fused matrix [D, 3D]: q | k | v, each head-major. With ``mask_k_bias`` the k third of the
    bias counts as zero: softmax cannot see it, and it drifts if trained.
    """

    def __init__(self, config: CompleteVitConfig, *, rngs: nnx.Rngs):
        dim = config.embed_dim
        self.heads = config.num_heads
        self.mask_k_bias = config.mask_k_bias and config.qkv_bias
        self.qkv = linear(dim, 3 * dim, bias=config.qkv_bias, dtype=config.dtype, rngs=rngs)
        self.proj = linear(dim, dim, bias=config.proj_bias, dtype=config.dtype, rngs=rngs)

    def __call__(self, x: jax.Array, sincos: tuple[jax.Array, jax.Array]) -> jax.Array:
        """x [..., T, D], sin and cos broadcastable to [..., N, 1, C] -> [..., T, D]."""
        dim = x.shape[-1]
        qkv = x @ self.qkv.kernel[...].astype(x.dtype)
        if self.qkv.bias is not None:
            bias = self.qkv.bias[...]
            if self.mask_k_bias:
                bias = bias.at[dim : 2 * dim].set(0.0)
            qkv = qkv + bias.astype(x.dtype)
        qkv = qkv.reshape(*x.shape[:-1], 3, self.heads, dim // self.heads)
        q, k, v = (qkv[..., i, :, :] for i in range(3))  # [..., T, A, C]
        q, k = rope.rotate(q, *sincos), rope.rotate(k, *sincos)
        sequences = (-1, *q.shape[-3:])  # the kernel wants one batch axis
        out = jax.nn.dot_product_attention(*(t.reshape(sequences) for t in (q, k, v)))
        return self.proj(out.reshape(x.shape))


class Mlp(nnx.Module):
    """fc2(gelu(fc1(x))), exact GELU."""

    def __init__(self, config: CompleteVitConfig, *, rngs: nnx.Rngs):
        hidden = presets.ffn_hidden(config)
        bias, dtype = config.ffn_bias, config.dtype
        self.fc1 = linear(config.embed_dim, hidden, bias=bias, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden, config.embed_dim, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class SwiGlu(nnx.Module):
    """out(silu(gate(x)) · value(x))."""

    def __init__(self, config: CompleteVitConfig, *, rngs: nnx.Rngs):
        hidden = presets.ffn_hidden(config)
        bias, dtype = config.ffn_bias, config.dtype
        self.gate = linear(config.embed_dim, hidden, bias=bias, dtype=dtype, rngs=rngs)
        self.value = linear(config.embed_dim, hidden, bias=bias, dtype=dtype, rngs=rngs)
        self.out = linear(hidden, config.embed_dim, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(jax.nn.silu(self.gate(x)) * self.value(x))
