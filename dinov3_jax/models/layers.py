"""The parts of a transformer block. Parameters are float32; ``config.dtype`` is the compute dtype.

Matrices start as N(0, 0.02²), biases at 0, norms at 1 and 0.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from dinov3_jax.config import CompleteVitConfig
from dinov3_jax.models import presets
from dinov3_jax.models.attention import attention, platform
from dinov3_jax.models.fp8 import matmul

matrix_init = nnx.initializers.normal(0.02)


def linear(inputs: int, outputs: int, *, bias: bool, dtype: str, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(
        inputs, outputs, use_bias=bias, dtype=dtype, kernel_init=matrix_init, rngs=rngs
    )


def product(x: jax.Array, kernel: jax.Array, *, fp8: bool) -> jax.Array:
    """x · kernel in the dtype of x; ``fp8``: by ``fp8.matmul``."""
    matrix = kernel.astype(x.dtype)
    return matmul(x, matrix) if fp8 else x @ matrix


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x + bias in the dtype of x, bias float32 [D].

    The gradient of bias has float32 sums; on a TPU they are a product of ones and dout, which takes
    a fraction of the time of a sum in vector registers (docs/design/0004-scale.md).
    """
    return x + bias.astype(x.dtype)


def _add_bias_forward(x, bias):
    return add_bias(x, bias), None


def _add_bias_backward(_, dout):
    axes = tuple(range(dout.ndim - 1))
    if platform() != "tpu":
        return dout, dout.sum(axes, dtype=jnp.float32)
    # Eight rows of ones, all of one register: of a single one the compiler makes a plain sum.
    ones = jnp.ones((8, *dout.shape[:-1]), dout.dtype)
    sums = jax.lax.dot_general(
        ones,
        dout,
        ((tuple(a + 1 for a in axes), axes), ((), ())),
        preferred_element_type=jnp.float32,
    )
    return dout, sums[0]


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def dense(
    layer: nnx.Linear, x: jax.Array, *, fp8: bool, gamma: jax.Array | None = None
) -> jax.Array:
    """(x · kernel + bias) ∘ gamma in the dtype of x."""
    kernel = layer.kernel[...]
    bias = None if layer.bias is None else layer.bias[...]
    if gamma is not None and not fp8:  # in float8 the kernel keeps its own scales
        # Folded in: the backward pass then needs no product without gamma, one array per block
        # less to keep or to compute again.
        kernel, bias, gamma = kernel * gamma, None if bias is None else bias * gamma, None
    out = product(x, kernel, fp8=fp8)
    out = out if bias is None else add_bias(out, bias)
    return out if gamma is None else out * gamma.astype(x.dtype)


def written(x: jax.Array) -> jax.Array:
    """x, which on a TPU is in memory before anything reads it.

    Without that the TPU compiler computes a hidden layer inside of the product that reads it, once
    for each tile of that product (docs/design/0004-scale.md).
    """
    return jax.lax.optimization_barrier(x) if platform() == "tpu" else x


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
        self.implementation, self.fp8 = config.attention, config.fp8
        self.mask_k_bias = config.mask_k_bias and config.qkv_bias
        self.qkv = linear(dim, 3 * dim, bias=config.qkv_bias, dtype=config.dtype, rngs=rngs)
        self.proj = linear(dim, dim, bias=config.proj_bias, dtype=config.dtype, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        sincos: tuple[jax.Array, jax.Array],
        gamma: jax.Array | None = None,
        tokens: int | None = None,
    ) -> jax.Array:
        """x [..., T, D], sin and cos broadcastable to [..., N, 1, C] -> [..., T, D], ∘ gamma.

        ``tokens``: how many of T are not padding (``attention``); all of them if None.
        """
        dim = x.shape[-1]
        qkv = product(x, self.qkv.kernel[...], fp8=self.fp8)
        if self.qkv.bias is not None:
            bias = self.qkv.bias[...]
            if self.mask_k_bias:
                bias = bias.at[dim : 2 * dim].set(0.0)
            qkv = add_bias(qkv, bias)
        qkv = checkpoint_name(qkv, "qkv")
        qkv = qkv.reshape(-1, x.shape[-2], 3, self.heads, dim // self.heads)  # [n, T, 3, A, C]
        sin, cos = (t.reshape(-1, t.shape[-3], t.shape[-1]) for t in sincos)  # [S, N, C]
        out = attention(qkv, sin, cos, implementation=self.implementation, tokens=tokens)
        out = checkpoint_name(out.reshape(x.shape), "attention")
        return checkpoint_name(dense(self.proj, out, fp8=self.fp8, gamma=gamma), "proj")


class Mlp(nnx.Module):
    """fc2(gelu(fc1(x))) ∘ gamma, exact GELU."""

    def __init__(self, config: CompleteVitConfig, *, rngs: nnx.Rngs):
        hidden = presets.ffn_hidden(config)
        bias, dtype, self.fp8 = config.ffn_bias, config.dtype, config.fp8
        self.fc1 = linear(config.embed_dim, hidden, bias=bias, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden, config.embed_dim, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, gamma: jax.Array | None = None) -> jax.Array:
        hidden = written(checkpoint_name(dense(self.fc1, x, fp8=self.fp8), "fc1"))
        hidden = jax.nn.gelu(hidden, approximate=False)
        return dense(self.fc2, hidden, fp8=self.fp8, gamma=gamma)


class SwiGlu(nnx.Module):
    """out(silu(gate(x)) · value(x)) ∘ gamma."""

    def __init__(self, config: CompleteVitConfig, *, rngs: nnx.Rngs):
        hidden = presets.ffn_hidden(config)
        bias, dtype, self.fp8 = config.ffn_bias, config.dtype, config.fp8
        self.gate = linear(config.embed_dim, hidden, bias=bias, dtype=dtype, rngs=rngs)
        self.value = linear(config.embed_dim, hidden, bias=bias, dtype=dtype, rngs=rngs)
        self.out = linear(hidden, config.embed_dim, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, gamma: jax.Array | None = None) -> jax.Array:
        gate, value = (
            written(checkpoint_name(dense(layer, x, fp8=self.fp8), "fc1"))
            for layer in (self.gate, self.value)
        )
        return dense(self.out, jax.nn.silu(gate) * value, fp8=self.fp8, gamma=gamma)
