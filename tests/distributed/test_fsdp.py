"""Weights whole for the moment of use: the numbers of one device, gradients summed in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.config import MeshConfig
from dinov3_jax.distributed import sharding
from dinov3_jax.distributed.fsdp import fully_sharded, gather_layer
from dinov3_jax.distributed.mesh import make_mesh
from tests import collectives

MESHES = [(1, 8, 1, 1), (1, 4, 2, 1), (2, 2, 2, 1), (1, 2, 2, 2)]


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    blocks = {"attn": {"qkv": {"kernel": draw(3, 16, 16)}}, "norm1": {"scale": draw(3, 16)}}
    return {"net": {"blocks": blocks, "head": {"fc1": {"kernel": draw(16, 8), "bias": draw(8)}}}}


def network(params, layout, x, *, dtype="float32"):
    params, layout = params["net"], layout["net"]

    def body(x, layer):
        layer = gather_layer(layer, None if layout is None else layout["blocks"], dtype=dtype)
        kernel = layer["attn"]["qkv"]["kernel"].astype(dtype)
        return jnp.tanh(x @ kernel) * layer["norm1"]["scale"].astype(dtype), None

    x = jax.lax.scan(body, x.astype(dtype), params["blocks"])[0]
    head = params["head"]["fc1"]
    return (x @ head["kernel"].astype(dtype) + head["bias"].astype(dtype)).astype(jnp.float32)


def value_and_gradient(params, x, *, reduce_dtype="float32"):
    def loss(params):
        out = fully_sharded(network, params, x, dtype="float32", reduce_dtype=reduce_dtype)
        return jnp.sin(out).mean()

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize("sizes", MESHES)
def test_the_numbers_of_one_device(sizes):
    params, x = parameters(), np.random.default_rng(1).standard_normal((8, 16), np.float32)
    wanted = jax.jit(value_and_gradient)(params, x)
    mesh = make_mesh(MeshConfig(*sizes))
    with jax.set_mesh(mesh):
        shardings = sharding.named(sharding.param_specs(params, mesh), mesh)
        placed = jax.tree.map(jax.device_put, params, shardings)
        batch = jax.device_put(x, sharding.batch_sharding(mesh))
        run = jax.jit(value_and_gradient, out_shardings=(None, shardings)).lower(placed, batch)
        got = run.compile()(placed, batch)
    # float32 sums over eight images in another order
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, wanted)


def test_gathers_and_scatters_one_axis_after_the_other():
    """Two axes: two gathers and two scatters a matrix, nothing whole is reduced."""
    mesh = make_mesh(MeshConfig(1, 4, 2, 1))
    params, x = parameters(), np.ones((8, 16), np.float32)
    with jax.set_mesh(mesh):
        shardings = sharding.named(sharding.param_specs(params, mesh), mesh)
        placed = jax.tree.map(jax.device_put, params, shardings)
        batch = jax.device_put(x, sharding.batch_sharding(mesh))
        run = jax.jit(value_and_gradient, out_shardings=(None, shardings))
        program = run.lower(placed, batch).compile().as_text()
    kinds = [kind for kind, _ in collectives.find(program)]
    assert kinds.count("reduce-scatter") == 2 * 2
    assert kinds.count("all-gather") == 2 * 2


def test_half_of_the_bytes_with_bfloat16_on_the_way():
    """Each scatter becomes an exchange of bfloat16; gradients differ by its rounding alone."""
    mesh = make_mesh(MeshConfig(1, 4, 2, 1))
    params, x = parameters(), np.random.default_rng(1).standard_normal((8, 16), np.float32)
    wanted = jax.jit(value_and_gradient)(params, x)[1]
    with jax.set_mesh(mesh):
        shardings = sharding.named(sharding.param_specs(params, mesh), mesh)
        placed = jax.tree.map(jax.device_put, params, shardings)
        batch = jax.device_put(x, sharding.batch_sharding(mesh))
        half = functools.partial(value_and_gradient, reduce_dtype="bfloat16")
        lowered = jax.jit(half, out_shardings=(None, shardings)).lower(placed, batch)
        got = lowered.compile()(placed, batch)[1]
    # As asked of the compiler: on a CPU it widens bfloat16, on a TPU it does not.
    text = lowered.as_text()
    assert "reduce_scatter" not in text
    sent = [line for line in text.splitlines() if "stablehlo.all_to_all" in line]
    assert len(sent) == 2 * 2
    assert all("xbf16>" in line and "xf32>" not in line for line in sent)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted)):
        # Each of the 4 or 2 parts is rounded to 8 bits, once an axis: 2 x 2^-9 of the largest part.
        np.testing.assert_allclose(a, b, atol=2**-7 * np.abs(b).max())
    biggest = max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), got, wanted)))
    assert biggest > 0  # it was rounded


@pytest.mark.parametrize("reduce_dtype", ["float32", "bfloat16"])
def test_gradients_of_bfloat16_products_are_summed_in_float32(reduce_dtype):
    """1 + 7 times 2^-9: lost one by one in bfloat16, whose next number after 1 is 1 + 2^-7."""
    mesh = make_mesh(MeshConfig(1, 8, 1, 1))
    weight = {"net": {"head": {"fc1": {"kernel": np.ones((8, 8), np.float32)}}}}
    x = np.full((8, 8), 2.0**-9, np.float32)
    x[0] = 1.0

    def loss(params):
        def function(params, layout, x):
            return x.astype("bfloat16") @ params["net"]["head"]["fc1"]["kernel"]

        out = fully_sharded(function, params, x, dtype="bfloat16", reduce_dtype=reduce_dtype)
        return out.astype(jnp.float32).sum()

    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(loss))(weight)["net"]["head"]["fc1"]["kernel"]
    np.testing.assert_array_equal(gradient, 1.0 + 7 * 2.0**-9)


def test_without_a_mesh_nothing_is_gathered():
    seen = []
    fully_sharded(
        lambda params, layout, x: seen.append(layout),
        {"net": {}},
        np.ones(3),
        dtype="float32",
        reduce_dtype="float32",
    )
    assert seen == [{"net": None}]
    assert gather_layer({"a": 1}, None, dtype="float32") == {"a": 1}
