import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from dinov3_jax.models import layers, rope
from tests.models.modules import build, student, weights
from tests.reference import det


def gelu(x):
    return x * 0.5 * (1 + scipy.special.erf(x / np.sqrt(2)))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_layernorm(offset):
    """Also with one channel of huge magnitude, where E[x²] - E[x]² would lose everything."""
    module = build(lambda rngs: layers.norm(student(norm_eps=1e-3), rngs))
    x = (det(5, 16) + offset).astype(np.float32)
    scale, bias = (np.asarray(p[...]) for p in (module.scale, module.bias))
    wide = x.astype(np.float64)
    wanted = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-3)
    # atol: float32; a mean of 1000 leaves 6e-5 of each difference of order 1.
    np.testing.assert_allclose(module(jnp.asarray(x)), wanted * scale + bias, atol=2e-4)


def test_rmsnorm():
    module = build(lambda rngs: layers.norm(student(norm="rmsnorm", norm_eps=1e-3), rngs))
    x = det(5, 16)
    wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * np.asarray(module.scale[...])
    assert not hasattr(module, "bias") or module.bias is None
    np.testing.assert_allclose(module(jnp.asarray(x)), wanted, rtol=1e-5, atol=1e-6)  # float32


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_norm_statistics_are_float32_under_bfloat16(norm):
    """A bfloat16 sum over 1024 channels of 1 would stop at 256."""
    config = student(norm=norm, dtype="bfloat16", embed_dim=1024)
    module = layers.norm(config, nnx.Rngs(0))
    x = jnp.ones((1, 1024), jnp.bfloat16).at[0, ::2].set(3.0)
    got = module(x)
    assert got.dtype == jnp.bfloat16
    wanted = {"layernorm": [1.0, -1.0], "rmsnorm": [3 / 5**0.5, 1 / 5**0.5]}[norm]
    # rtol: the bfloat16 of the result.
    np.testing.assert_allclose(got[0, :2].astype(jnp.float32), wanted, rtol=2**-8)


@pytest.mark.parametrize("on", ["cpu", "tpu"])
def test_bias_gradient_sums_over_all_tokens_in_float32(on, monkeypatch):
    """A bfloat16 sum of 2 · 3 · 500 ones would stop at 256; eight rows of ones count once."""
    monkeypatch.setattr(layers, "platform", lambda: on)
    x, bias = jnp.ones((2, 3, 500, 4), jnp.bfloat16), jnp.zeros(4)
    weights = jnp.asarray([1, 2, 0, -1], jnp.bfloat16)
    out, vjp = jax.vjp(layers.add_bias, x, bias + 0.5)
    dx, dbias = vjp(jnp.broadcast_to(weights, x.shape))
    assert out.dtype == jnp.bfloat16
    assert dbias.dtype == jnp.float32
    np.testing.assert_array_equal(out.astype("float32"), 1.5)
    np.testing.assert_array_equal(dx.astype("float32"), np.broadcast_to([1, 2, 0, -1], x.shape))
    np.testing.assert_array_equal(dbias, [3000, 6000, 0, -3000])


def test_layerscale():
    module = layers.LayerScale(16, 1e-5, dtype="float32")
    x = jnp.asarray(det(3, 16))
    np.testing.assert_array_equal(module(x), x * jnp.float32(1e-5))


def test_mlp_has_the_exact_gelu():
    module = build(lambda rngs: layers.Mlp(student(), rngs=rngs))
    x, w = det(5, 16), weights(module)
    hidden = gelu(x @ w["fc1"]["kernel"] + w["fc1"]["bias"])
    wanted = hidden @ w["fc2"]["kernel"] + w["fc2"]["bias"]
    # atol: float32; the tanh approximation would be off by up to 3e-4 times the weights.
    np.testing.assert_allclose(module(jnp.asarray(x)), wanted, atol=1e-5)


def test_swiglu():
    config = student(ffn="swiglu", ffn_ratio=6.0)
    module = build(lambda rngs: layers.SwiGlu(config, rngs=rngs))
    x, w = det(5, 16), weights(module)
    gate = x @ w["gate"]["kernel"] + w["gate"]["bias"]
    value = x @ w["value"]["kernel"] + w["value"]["bias"]
    wanted = (gate * scipy.special.expit(gate) * value) @ w["out"]["kernel"] + w["out"]["bias"]
    np.testing.assert_allclose(module(jnp.asarray(x)), wanted, atol=2e-5)  # float32


def attention_by_hand(x, w, sincos, *, heads, mask_k_bias):
    """Loops over heads, float64, on one sequence [T, D]."""
    dim = x.shape[-1]
    width = dim // heads
    bias = w["qkv"]["bias"].copy()
    if mask_k_bias:
        bias[dim : 2 * dim] = 0
    qkv = x @ w["qkv"]["kernel"] + bias
    out = []
    for head in range(heads):
        q, k, v = (
            qkv[:, part * dim + head * width : part * dim + (head + 1) * width] for part in range(3)
        )
        q, k = (rope.rotate(jnp.asarray(t[:, None], jnp.float32), *sincos)[:, 0] for t in (q, k))
        out.append(scipy.special.softmax(q @ k.T / np.sqrt(width), axis=-1) @ v)
    return np.concatenate(out, axis=-1) @ w["proj"]["kernel"] + w["proj"]["bias"]


def small_sincos(h=2, w=2, width=8):
    angles = rope.angles(rope.coordinates(h, w), rope.periods(width, base=100.0))[:, None]
    return jnp.sin(angles), jnp.cos(angles)


@pytest.mark.parametrize("mask_k_bias", [True, False])
def test_attention(mask_k_bias):
    config = student(mask_k_bias=mask_k_bias)
    module = build(lambda rngs: layers.Attention(config, rngs=rngs))
    x, sincos = 2 * det(3, 7, 16), small_sincos()
    got = module(jnp.asarray(x), sincos)
    for i in range(3):
        wanted = attention_by_hand(x[i], weights(module), sincos, heads=2, mask_k_bias=mask_k_bias)
        np.testing.assert_allclose(got[i], wanted, atol=2e-5)  # float32


def test_leading_axes_are_all_batch():
    module = build(lambda rngs: layers.Attention(student(), rngs=rngs))
    x, sincos = jnp.asarray(det(2, 3, 7, 16)), small_sincos()
    got = module(x, sincos)
    # atol: float32, another batch size may sum in another order.
    np.testing.assert_allclose(got[1, 2], module(x[1, 2][None], sincos)[0], atol=1e-6)


def test_masked_k_bias_changes_nothing():
    module = build(lambda rngs: layers.Attention(student(mask_k_bias=True), rngs=rngs))
    x, sincos = jnp.asarray(det(3, 7, 16)), small_sincos()
    before = module(x, sincos)
    module.qkv.bias[...] = module.qkv.bias[...].at[16:32].set(jnp.nan)  # even this
    np.testing.assert_array_equal(module(x, sincos), before)
    module.qkv.bias[...] = module.qkv.bias[...].at[40].add(1.0)  # v is not masked
    assert np.abs(module(x, sincos) - before).max() > 0.1


@pytest.mark.parametrize(("kind", "layers_written"), [("Mlp", 1), ("SwiGlu", 2)])
def test_on_a_tpu_hidden_layers_are_written_and_nothing_else_changes(
    kind, layers_written, monkeypatch
):
    module = build(lambda rngs: getattr(layers, kind)(student(ffn_ratio=6.0), rngs=rngs))
    graph, params = nnx.split(module)
    x = jnp.asarray(det(5, 16))
    loss = lambda params: jnp.sin(nnx.merge(graph, params)(x)).sum()  # noqa: E731
    wanted = jax.value_and_grad(loss)(params)
    assert "optimization_barrier" not in str(jax.make_jaxpr(loss)(params))
    monkeypatch.setattr(layers, "platform", lambda: "tpu")
    traced = str(jax.make_jaxpr(lambda p: loss(p))(params))  # a new function: nothing from a cache
    assert traced.count("optimization_barrier") == layers_written
    got = jax.value_and_grad(loss)(params)
    # float32; on a TPU the biases' gradients are products.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, wanted)


def test_biases_can_be_left_out():
    attention = layers.Attention(student(qkv_bias=False, proj_bias=False), rngs=nnx.Rngs(0))
    assert jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(attention))) == {
        "qkv": {"kernel": (16, 48)},
        "proj": {"kernel": (16, 16)},
    }
    ffn = layers.Mlp(student(ffn_bias=False), rngs=nnx.Rngs(0))
    assert {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(
        nnx.to_pure_dict(nnx.state(ffn))
    )} == {"kernel"}  # fmt: skip


def test_matrices_start_at_002():
    kernel = layers.linear(256, 256, bias=True, dtype="float32", rngs=nnx.Rngs(0)).kernel[...]
    # 65,536 draws: the standard deviation is known to 0.3 %, the mean to 8e-5; 5 errors of each.
    assert float(jnp.std(kernel)) == pytest.approx(0.02, rel=0.015)
    assert abs(float(jnp.mean(kernel))) < 4e-4
    # A normal, not one truncated at two standard deviations.
    assert float(jnp.abs(kernel).max()) > 3.5 * 0.02
