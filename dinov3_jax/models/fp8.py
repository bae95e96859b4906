"""Matrix products in float8, as the reference trains its 7B with.

Forward and input gradient multiply float8_e4m3fn numbers; the weight gradient keeps the compute
dtype. Every row is scaled to the range of float8 by its own largest magnitude, at the moment of
use: no state, no history. A device without float8 units converts back and gets the same numbers.
"""

import jax
import jax.numpy as jnp

# 1 / the largest float8_e4m3fn. As a factor: compilers turn division by a constant into it or not.
_STEP = 1.0 / 448.0


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x · kernel, x [..., I], kernel [I, O] -> [..., O], all of one dtype.

    With s = max(largest magnitude, 1e-12) / 448 of each row of x (over I) and of each column of the
    kernel (over I), and e4m3 the rounding to float8_e4m3fn:

        out = e4m3(x / s_x) · e4m3(kernel / s_kernel) ∘ s_x s_kernelᵀ

    The product sums in float32 and is rounded to the dtype before the scales, which are float32; a
    compiler that fuses the two may spare that rounding.
    Backward, with rows of dout scaled alike (over O) and s the largest scale of the whole kernel:

        dx      = e4m3(dout / s_dout) · e4m3(kernel / s)ᵀ ∘ s_dout s
        dkernel = xᵀ · dout                                 in the dtype, summed over all rows
    """
    return _scaled_product(_quantize(x, axis=-1), _quantize(kernel, axis=0), x.dtype)


def _forward(x, kernel):
    return matmul(x, kernel), (x, kernel)


def _backward(saved, dout):
    x, kernel = saved
    dx = _scaled_product(_quantize(dout, axis=-1), _quantize(kernel.T, axis=None), x.dtype)
    rows = tuple(range(x.ndim - 1))
    return dx, jnp.tensordot(x, dout, (rows, rows))


matmul.defvjp(_forward, _backward)


def _quantize(x, *, axis):
    """(x / scale in float8, float32 scale), one scale for all elements along ``axis``."""
    x = x.astype(jnp.float32)
    scale = jnp.maximum(jnp.abs(x).max(axis, keepdims=True), 1e-12) * _STEP
    return (x / scale).astype(jnp.float8_e4m3fn), scale


def _scaled_product(rows, columns, dtype):
    (a, a_scale), (b, b_scale) = rows, columns
    product = jax.lax.dot_general(
        a, b, (((a.ndim - 1,), (0,)), ((), ())), preferred_element_type=dtype
    )
    return (product * (a_scale * b_scale.reshape(-1))).astype(dtype)
