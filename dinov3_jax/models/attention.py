"""Attention between the tokens of a sequence, by the implementation that suits the platform.

docs/attention.md says which one when, with measured facts.
"""

import jax
import jax.numpy as jnp

from dinov3_jax.models import attention_tpu, rope


def attention(
    qkv: jax.Array,
    sin: jax.Array,
    cos: jax.Array,
    *,
    implementation: str,
    tokens: int | None = None,
) -> jax.Array:
    """softmax(q' k'ᵀ / √C) v with q', k' turned by RoPE (``rope.rotate``), the last N tokens of T.

    qkv [n, T, 3, A, C]: q, k and v -> [n, T, A, C] in their dtype; sin, cos [S, N, C], one row of S
    for each n/S neighbouring sequences. Scores and softmax are float32, probabilities and what RoPE
    turned are rounded to the dtype of v. With ``tokens`` only so many of T are tokens, and the rest
    is padding: no token sees it, what is written there means nothing, and if its part of dout is 0,
    so is that of the gradient.

    ``implementation``
      "xla"     ``jax.nn.dot_product_attention``: any platform, dtype and shape; on a CPU the same
                product head by head, which takes half the time there.
      "cudnn"   cuDNN's flash attention: NVIDIA GPUs of compute capability 8.0 on, bfloat16 or
                float16, C up to 128 (256 from capability 9.0 on).
      "pallas"  the TPU kernel of ``attention_tpu``, T up to ``attention_tpu.MAX_TOKENS``.
      "auto"    ``choose``.

    Raises ``ValueError`` where one that is asked for by name cannot do it; JAX raises its own error
    where it does not exist on the platform.
    """
    if implementation == "auto":
        implementation = choose(qkv)
    if implementation == "pallas":
        return attention_tpu.attention(qkv, sin, cos, tokens=tokens or qkv.shape[1])
    if implementation not in ("xla", "cudnn"):
        raise ValueError(
            f"attention implementation {implementation!r}, wanted 'auto', 'xla', 'cudnn', 'pallas'"
        )
    if tokens is not None:
        padding = ((0, 0), (0, qkv.shape[1] - tokens), (0, 0), (0, 0))
        qkv = qkv[:, :tokens]
        return jnp.pad(attention(qkv, sin, cos, implementation=implementation), padding)
    q, k, v = _split(qkv)
    groups, sincos = (len(sin), -1, *q.shape[1:]), (sin[:, None, :, None], cos[:, None, :, None])
    q, k = (rope.rotate(x.reshape(groups), *sincos).reshape(x.shape) for x in (q, k))
    if implementation == "cudnn":
        return _cudnn(q, k, v)
    return _by_head(q, k, v) if platform() == "cpu" else jax.nn.dot_product_attention(q, k, v)


def _split(qkv):
    # While 3 A C is one axis: on a TPU, slices of [..., 3, A, C] are copied to other layouts.
    n, T, _, A, C = qkv.shape
    return (x.reshape(n, T, A, C) for x in jnp.split(qkv.reshape(n, T, -1), 3, axis=-1))


def choose(qkv: jax.Array) -> str:
    """The implementation that "auto" means for qkv [n, T, 3, A, C] on ``platform()``.

    TPU: "pallas" for C of 64 or 128 (all presets) and T up to ``attention_tpu.MAX_TOKENS``.
    NVIDIA GPU from compute capability 8.0 on: "cudnn" in bfloat16 and float16 for C up to 128.
    Everything else: "xla".
    """
    on, (_, T, _, _, C) = platform(), qkv.shape
    if on == "tpu" and C in (64, 128) and T <= attention_tpu.MAX_TOKENS:
        return "pallas"
    if on == "gpu" and qkv.dtype.itemsize == 2 and C <= 128 and _flash_attention_exists():
        return "cudnn"
    return "xla"


def platform() -> str:
    """ "cpu", "gpu" or "tpu": what is being compiled for.

    It is that of the mesh in force (``jax.set_mesh``), which may be one of devices that this
    machine does not have; without a mesh, that of the default device.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    device = device or jax.config.jax_default_device or jax.devices()[0]
    return device if isinstance(device, str) else device.platform


def _flash_attention_exists():
    capability = getattr(jax.local_devices(backend="gpu")[0], "compute_capability", "")
    return capability.replace(".", "").isdigit() and float(capability) >= 8.0


def _by_head(q, k, v):
    """Heads before tokens, the softmax divided after the product with v: what XLA's CPU compiler
    turns into plain matrix products and few passes over the scores."""
    dtype, C = q.dtype, q.shape[-1]
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * C**-0.5, k, v))  # [n, A, T, C]
    scores = jnp.einsum("natc,nasc->nats", q, k, preferred_element_type=jnp.float32)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    out = jnp.einsum(
        "nats,nasc->natc", weights.astype(dtype), v, preferred_element_type=jnp.float32
    )
    out = out / weights.sum(-1, keepdims=True)
    return jnp.swapaxes(out.astype(dtype), 1, 2)


def _cudnn(q, k, v):
    C = q.shape[-1]
    if q.dtype.itemsize != 2:
        raise ValueError(
            f"cuDNN's attention takes bfloat16 or float16, not {q.dtype}; set "
            "student.dtype='bfloat16' or student.attention='xla'"
        )
    # cuDNN wants C a multiple of 8. Zeros change no product; T and A are free.
    padding = ((0, 0), (0, 0), (0, 0), (0, -C % 8))
    q, k, v = (jnp.pad(x, padding) for x in (q, k, v))
    out = jax.nn.dot_product_attention(q, k, v, scale=C**-0.5, implementation="cudnn")
    return out[..., :C]
