import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from dinov3_jax.models import build, fp8
from tests.tiny import tiny_config


def quantize(x, axis):
    """NumPy's own: one division and one rounding to float8_e4m3fn, float32 scales."""
    x = x.astype(np.float32)
    scale = np.maximum(np.abs(x).max(axis, keepdims=True), np.float32(1e-12)) * np.float32(1 / 448)
    return (x / scale).astype(ml_dtypes.float8_e4m3fn), scale


def emulate(x, kernel, dtype):
    """The forward formula; the sum in float64."""
    (a, s), (b, t) = quantize(x, -1), quantize(kernel, 0)
    product = (a.astype(np.float64) @ b.astype(np.float64)).astype(dtype)
    return (product.astype(np.float32) * (s * t)).astype(dtype)


def wide(*shape, seed=0):
    """Magnitudes over 14 octaves: normal, subnormal and vanishing numbers of float8."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) * 2.0 ** rng.integers(-14, 1, shape)


def even(*shape, seed=0):
    """Magnitudes in [1/8, 1], so multiples of 4 once scaled: sums of their products are exact."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.125, 1.0, shape)


def check_close(got, wanted, **tolerances):
    got, wanted = (np.asarray(x, np.float64) for x in (got, wanted))
    np.testing.assert_allclose(got, wanted, **({"rtol": 0.0} | tolerances))


@pytest.mark.parametrize("axis", [-1, 0, None])
def test_scaling_and_rounding_to_the_bit(axis):
    x = wide(33, 48).astype(np.float32)
    x[3] = 0.0
    got, scale = jax.jit(lambda x: fp8._quantize(x, axis=axis))(x)
    wanted, wanted_scale = quantize(x, axis)
    np.testing.assert_array_equal(scale, wanted_scale)
    np.testing.assert_array_equal(np.asarray(got).view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_product_to_the_bit_where_sums_are_exact(dtype):
    x, kernel = even(40, 64).astype(dtype), even(64, 48, seed=1).astype(dtype)
    got, wanted = fp8.matmul(x, kernel), emulate(x, kernel, dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.asarray(got), wanted)
    # Compiled as one, products of scales associate and roundings are spared: two of each.
    check_close(jax.jit(fp8.matmul)(x, kernel), wanted, rtol=2 * float(ml_dtypes.finfo(dtype).eps))


def test_product_of_any_numbers():
    x, kernel = wide(3, 40, 64).astype(np.float32), wide(64, 48, seed=1).astype(np.float32)
    wanted = np.stack([emulate(row, kernel, np.float32) for row in x])
    bound = np.abs(x) @ np.abs(kernel)
    # 64 float32 additions of exact products.
    assert (np.abs(jax.jit(fp8.matmul)(x, kernel) - wanted) <= 64 * 2**-24 * bound).all()


def test_error_is_that_of_float8():
    """Three bits of mantissa, and 2^-10 of the scale where numbers become subnormal."""
    x, kernel = wide(40, 64), wide(64, 48, seed=1)
    steps = (quantize(x, -1)[1] * 2.0**-10, quantize(kernel, 0)[1] * 2.0**-10)
    dx, dk = (np.maximum(np.abs(m) * 2.0**-4, step) for m, step in zip((x, kernel), steps))
    bound = dx @ np.abs(kernel) + np.abs(x) @ dk + dx @ dk
    got = jax.jit(fp8.matmul)(x.astype(np.float32), kernel.astype(np.float32))
    error = np.abs(got - x @ kernel)
    assert (error <= 1.0001 * bound).all()  # and float32
    assert error.max() > 1e-3  # it is not computed in float32


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_gradients(dtype):
    """Of x in float8, with one scale for the whole kernel; of the kernel as without float8."""
    x, kernel = (m.astype(dtype) for m in (even(2, 20, 64), even(64, 48, seed=1)))
    kernel = (kernel * np.linspace(0.5, 1.0, 48)).astype(dtype)  # columns differ, their scale not
    dout = even(2, 20, 48, seed=2).astype(dtype)
    dx, dkernel = jax.vjp(fp8.matmul, x, kernel)[1](jnp.asarray(dout))
    (a, s), (b, t) = quantize(dout, -1), quantize(kernel, None)
    assert t.size == 1
    product = (a.astype(np.float64) @ b.T.astype(np.float64)).astype(dtype)
    wanted = (product.astype(np.float32) * (s * t[0])).astype(dtype)
    np.testing.assert_array_equal(np.asarray(dx), wanted)  # sums are exact
    plain = jax.vjp(jnp.matmul, x, kernel)[1](jnp.asarray(dout))[1]
    assert dkernel.dtype == dtype
    # 40 terms of order 1 in another order; one rounding of the result, of order 8.
    check_close(dkernel, plain, atol=40 * 2**-24 + 8 * float(ml_dtypes.finfo(dtype).eps))


def test_rows_of_zeros_stay_zeros():
    x, kernel = jnp.zeros((4, 16)), jnp.ones((16, 16))
    out, vjp = jax.vjp(fp8.matmul, x, kernel)
    for array in (out, *vjp(out)):
        np.testing.assert_array_equal(array, 0.0)


@pytest.mark.parametrize(("ffn", "linears"), [("mlp", 4), ("swiglu", 5)])
def test_blocks_alone_are_in_float8(ffn, linears):
    config = tiny_config(**{"student.ffn": ffn, "student.ffn_align": 16, "student.fp8": True})
    networks = build.networks(config)
    params = jax.eval_shape(lambda: build.init_params(config, jax.random.key(0)))
    count = lambda name, call, *args: _float8(  # noqa: E731
        lambda p, *args: call(nnx.merge(getattr(networks, name), p), *args), params[name], *args
    )
    images, features = jnp.zeros((2, 16, 16, 3)), jnp.zeros((2, 16))
    assert count("backbone", lambda m, x: m(x), images) == 2 * linears  # both factors of each
    assert count("backbone", lambda m, x: m.patch_embed(x), images) == 0
    for head in ("dino_head", "ibot_head"):
        assert count(head, lambda m, x: m(x), features) == 0
    without = dataclasses.replace(config, student=dataclasses.replace(config.student, fp8=False))
    plain = build.networks(without).backbone
    assert _float8(lambda p, x: nnx.merge(plain, p)(x), params["backbone"], images) == 0


def _float8(function, *args):
    """Conversions to float8 in the traced function; the body of a scan counts once."""
    text = str(jax.make_jaxpr(function)(*args))
    return text.count("new_dtype=float8_e4m3fn")
