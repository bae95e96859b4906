import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from dinov3_jax.config import ConvNextConfig, MeshConfig
from dinov3_jax.distributed import sharding
from dinov3_jax.distributed.mesh import batch_sharding, make_mesh
from dinov3_jax.models.convnext import ConvBlock, ConvNext, Downsample
from tests import collectives
from tests.models.modules import build, weights
from tests.reference import det

CONFIG = ConvNextConfig("convnext_tiny", None, 3, (1, 1, 2, 1), (8, 8, 16, 24), "float32", "none")
IMAGES = jnp.asarray(det(2, 64, 96, 3))  # maps of 16 x 24, 8 x 12, 4 x 6, 2 x 3
LOCAL = jnp.asarray(det(2, 32, 32, 3)[::-1].copy())

# Float32 through five blocks whose sums another program may order otherwise.
FLOAT32 = dict(rtol=1e-4, atol=2e-5)


def make(**changes):
    return build(lambda rngs: ConvNext(dataclasses.replace(CONFIG, **changes), rngs=rngs))


@functools.partial(jax.jit, static_argnums=0)
def _forward(graph, params, crops):
    return nnx.merge(graph, params).forward(crops)


def forward(model, *crops):
    return _forward(*nnx.split(model), crops)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _intermediate(graph, params, images, layers, norm):
    return nnx.merge(graph, params).intermediate_layers(images, layers, norm=norm)


def intermediate(model, layers, *, norm=True):
    return _intermediate(*nnx.split(model), IMAGES, layers, norm)


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def stages(model):
    return intermediate(model, 4)


def assert_close(got, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **FLOAT32), got, wanted)


def layernorm(x, w):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * w["scale"] + w["bias"]


def test_block_equals_numpy():
    block = build(lambda rngs: ConvBlock(8, dtype="float32", rngs=rngs))
    x, w = det(2, 5, 9, 8), weights(block)
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    hidden = w["depthwise"]["bias"] + sum(
        padded[:, i : i + 5, j : j + 9] * w["depthwise"]["kernel"][i, j, 0]
        for i in range(7)
        for j in range(7)
    )
    hidden = layernorm(hidden, w["norm"]) @ w["fc1"]["kernel"] + w["fc1"]["bias"]
    hidden = hidden * 0.5 * (1 + scipy.special.erf(hidden / np.sqrt(2)))
    wanted = x + (hidden @ w["fc2"]["kernel"] + w["fc2"]["bias"]) * w["ls"]["gamma"]
    # atol: float32 sums of 49 and 32 products; the tanh GELU would be off by up to 3e-4.
    np.testing.assert_allclose(block(jnp.asarray(x)), wanted, atol=1e-5)


@pytest.mark.parametrize(("stem", "stride"), [(True, 4), (False, 2)])
def test_downsample_equals_numpy(stem, stride):
    module = build(lambda rngs: Downsample(3, 8, stem=stem, dtype="float32", rngs=rngs))
    x, w = det(2, 8, 12, 3), weights(module)

    def conv(x):
        patches = x.reshape(2, 8 // stride, stride, 12 // stride, stride, 3)
        return np.einsum("nhiwjc,ijcd->nhwd", patches, w["conv"]["kernel"]) + w["conv"]["bias"]

    wanted = layernorm(conv(x), w["norm"]) if stem else conv(layernorm(x, w["norm"]))
    # atol: float32; the norm divides by a deviation of order 1.
    np.testing.assert_allclose(module(jnp.asarray(x)), wanted, atol=1e-5)


@pytest.mark.parametrize("patch_size", [None, 16])
def test_shapes_of_the_forward_pass_do_not_follow_the_patch_size(patch_size):
    out, local = forward(make(patch_size=patch_size), IMAGES, LOCAL)
    assert [x.shape for x in out] == [(2, 24), (2, 0, 24), (2, 6, 24), (2, 6, 24)]
    assert [x.shape for x in local] == [(2, 24), (2, 0, 24), (2, 1, 24), (2, 1, 24)]
    assert {x.dtype for x in out} == {jnp.dtype("float32")}


def test_cls_is_the_mean_before_the_norm(model):
    out = forward(model, IMAGES)[0]
    assert_close(out.cls, model.norm(out.prenorm.mean(axis=1)))
    assert_close(out.patch_tokens, model.norm(out.prenorm))


def test_the_stages_are_the_blocks_in_a_row(model, stages):
    """The scan equals a loop, patches are row-major, and only the last stage is normalised."""
    x = IMAGES
    for index, got in enumerate(stages):
        stage = getattr(model, f"stage{index}")
        x = stage.downsample(x)
        graph, stacked = nnx.split(stage.blocks)
        for z in range(CONFIG.stage_depths[index]):
            x = nnx.merge(graph, jax.tree.map(lambda p: p[z], stacked))(x)  # noqa: B023
        last = index == 3
        flat = x.reshape(2, -1, CONFIG.stage_dims[index])
        assert_close(got.prenorm, flat)
        assert_close(got.patch_tokens, model.norm(flat) if last else flat)
        mean = flat.mean(axis=1)
        assert_close(got.cls, model.norm(mean) if last else mean)


def test_crops_together_equal_crops_apart(model):
    apart = (forward(model, IMAGES)[0], forward(model, LOCAL)[0])
    assert_close(forward(model, IMAGES, LOCAL), apart)
    assert_close(model(LOCAL), apart[1])


def test_masks_and_keys_change_nothing(model):
    graph, params = nnx.split(model)
    training = jax.jit(
        lambda params, images: nnx.merge(graph, params).forward(
            (images,), masks=(jnp.ones((2, 6), bool),), keys=jax.random.split(jax.random.key(0), 2)
        )
    )
    assert_close(training(params, IMAGES), forward(model, IMAGES))


def test_height_and_width_are_treated_alike(model):
    graph, params = nnx.split(model)
    turn = lambda p: p.swapaxes(-4, -3) if p.ndim >= 4 else p  # noqa: E731  conv kernels
    turned = nnx.merge(graph, jax.tree.map(turn, params))
    tall, wide = forward(turned, IMAGES.swapaxes(1, 2))[0], forward(model, IMAGES)[0]
    assert_close(tall.cls, wide.cls)
    patches = tall.patch_tokens.reshape(2, 3, 2, 24).swapaxes(1, 2).reshape(2, 6, 24)
    assert_close(patches, wide.patch_tokens)


def test_intermediate_layers_come_in_depth_order(model, stages):
    assert_close(intermediate(model, 1), forward(model, IMAGES))
    assert_close(intermediate(model, (2, 0)), (stages[0], stages[2]))
    assert_close(intermediate(model, 2), stages[2:])


def test_intermediate_layers_without_norm(model, stages):
    (raw,) = intermediate(model, 1, norm=False)
    np.testing.assert_array_equal(raw.patch_tokens, raw.prenorm)
    assert_close(raw.prenorm, stages[3].prenorm)
    assert_close(model.norm(raw.cls), stages[3].cls)


def test_maps_are_resized_to_the_patch_grid(stages):
    """64 x 96 pixels at patch 16: stages of 16 x 24 ... 2 x 3 all become 4 x 6."""
    model = make(patch_size=16)
    resized = intermediate(model, 4)
    assert [x.patch_tokens.shape[1] for x in resized] == [24] * 4
    assert_close([x.cls for x in resized], [x.cls for x in stages])
    assert_close(resized[2], stages[2])
    # Halved with antialiasing: away from the borders, weights 1 3 3 1 over 8 on each axis.
    weight = np.array([1, 3, 3, 1]) / 8
    window = np.asarray(stages[1].prenorm).reshape(2, 8, 12, 8)[:, 3:7, 5:9]
    wanted = np.einsum("i,j,nijc->nc", weight, weight, window)
    got = resized[1].prenorm.reshape(2, 4, 6, 8)[:, 2, 3]
    np.testing.assert_allclose(got, wanted, **FLOAT32)
    # The norm comes after.
    assert_close(resized[3].patch_tokens, model.norm(resized[3].prenorm))


def test_a_patch_size_that_does_not_divide_rounds_down():
    (out,) = intermediate(make(patch_size=14), 1)
    assert out.patch_tokens.shape == (2, 4 * 6, 24)


@pytest.mark.parametrize("layers", [5, (4,), (-1,), ()])
def test_layers_that_do_not_exist(model, layers):
    with pytest.raises(ValueError, match="of a backbone of 4 stages"):
        model.intermediate_layers(IMAGES, layers)


def test_image_that_is_no_multiple_of_the_stride(model):
    with pytest.raises(ValueError, match=r"70 x 100 pixels .* stride 32; crop it to 64 x 96"):
        model(jnp.zeros((1, 70, 100, 3)))


def test_wrong_channel_count(model):
    with pytest.raises(ValueError, match="images have 4 channels, the backbone takes 3"):
        model(jnp.zeros((1, 32, 32, 4)))


def test_initial_values():
    model = jax.jit(lambda key: nnx.state(ConvNext(CONFIG, rngs=nnx.Rngs(key))))
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        nnx.to_pure_dict(model(jax.random.key(0)))
    ):
        name = sharding.path_name(path)
        if name.endswith("kernel"):
            # Four standard errors of a deviation from as many draws.
            assert abs(leaf.std() / 0.02 - 1) < 4 / np.sqrt(2 * leaf.size), name
        else:
            wanted = {"scale": 1.0, "bias": 0.0, "gamma": 1e-6}[name.rsplit("/", 1)[-1]]
            np.testing.assert_array_equal(leaf, np.float32(wanted))


def test_gradients_reach_every_parameter_and_remat_does_not_change_them():
    wanted = None
    for remat in ("none", "dots", "full"):
        graph, params = nnx.split(make(remat=remat))

        def loss(params):
            outputs = nnx.merge(graph, params).forward((IMAGES, LOCAL))  # noqa: B023
            return sum((x.cls**2).sum() + x.patch_tokens[:, 0].sum() for x in outputs)

        text = str(jax.make_jaxpr(jax.grad(loss))(params))
        assert ("remat" in text or "checkpoint" in text) == (remat != "none")
        gradient = nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))
        wanted = wanted or gradient
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(wanted)
        ):
            # Every channel; taps of a 7 x 7 kernel may lie outside of a small map.
            assert (a != 0).reshape(-1, a.shape[-1]).any(axis=0).all(), sharding.path_name(path)
            # Of the largest element: float32, recomputed sums in another order.
            np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


def test_bfloat16_maps(model):
    out = forward(make(dtype="bfloat16"), IMAGES)[0]
    assert {x.dtype for x in out} == {jnp.dtype("bfloat16")}
    # atol: eight bits of mantissa through five blocks, values of order 1.
    np.testing.assert_allclose(
        out.cls.astype(jnp.float32), forward(model, IMAGES)[0].cls, atol=0.15
    )


def test_devices_gather_weights_not_activations():
    """One kernel of each downsampling layer, two of the blocks of each stage; nothing else."""
    mesh = make_mesh(MeshConfig(1, 8, 1, 1))
    graph, state = nnx.split(nnx.eval_shape(lambda: ConvNext(CONFIG, rngs=nnx.Rngs(0))))
    shapes = {"backbone": nnx.to_pure_dict(state)}
    shardings = sharding.named(sharding.param_specs(shapes, mesh), mesh)
    abstract = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
    params = jax.tree.map(abstract, shapes, shardings)
    images = jax.ShapeDtypeStruct((16, 64, 64, 3), jnp.float32, sharding=batch_sharding(mesh))
    with jax.set_mesh(mesh):
        run = jax.jit(lambda params, x: nnx.merge(graph, params["backbone"])(x))
        program = run.lower(params, images).compile().as_text()
    assert [kind for kind, _ in collectives.find(program)] == ["all-gather"] * 12
