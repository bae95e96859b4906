import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dinov3_jax.models import vit
from dinov3_jax.models.block import Block
from dinov3_jax.models.vit import VisionTransformer
from tests.models.modules import build, student
from tests.reference import det

IMAGES = jnp.asarray(det(4, 16, 16, 3))  # 4 x 4 patches
LOCAL = jnp.asarray(det(4, 8, 8, 3)[::-1].copy())  # 2 x 2 patches
GROUP_KEYS = jax.random.split(jax.random.key(0), 2)

# Float32 through two blocks whose sums another program may order otherwise.
FLOAT32 = dict(rtol=1e-4, atol=2e-5)


@functools.partial(jax.jit, static_argnums=0)
def _forward(graph, params, crops, masks, keys):
    return nnx.merge(graph, params).forward(crops, masks=masks, keys=keys)


def forward(model, *crops, masks=None, keys=None):
    return _forward(*nnx.split(model), crops, masks, keys)


def make(**changes):
    return build(lambda rngs: VisionTransformer(student(**changes), rngs=rngs))


def without_blocks(**changes):
    """LayerScale of 0: what enters the blocks is what leaves them."""
    model = make(**changes)
    model.blocks.ls1.gamma[...] *= 0.0
    model.blocks.ls2.gamma[...] *= 0.0
    return model


@pytest.fixture(scope="module")
def model():
    return make()


def assert_close(got, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **FLOAT32), got, wanted)


def assert_differ(got, wanted):
    assert np.abs(np.asarray(got) - np.asarray(wanted)).max() > 1e-3


def test_shapes(model):
    out = model(IMAGES)
    assert [x.shape for x in out] == [(4, 16), (4, 2, 16), (4, 16, 16), (4, 19, 16)]
    assert {x.dtype for x in out} == {jnp.dtype("float32")}


def test_tokens_are_cls_storage_then_patches_row_by_row():
    model = without_blocks()
    tokens = forward(model, IMAGES)[0].prenorm
    np.testing.assert_array_equal(tokens[:, 0], jnp.broadcast_to(model.cls_token[...], (4, 16)))
    np.testing.assert_array_equal(tokens[3, 1:3], model.storage_tokens[...])
    patches = jax.lax.conv_general_dilated(
        IMAGES, model.patch_embed.kernel[...], (4, 4), "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ) + model.patch_embed.bias[...]  # fmt: skip
    # atol: float32 sums of 48 products.
    np.testing.assert_allclose(tokens[:, 3:], patches.reshape(4, 16, 16), atol=1e-5)


def test_final_norm_is_over_every_token(model):
    out = model(IMAGES)
    normed = model.norm(out.prenorm)
    np.testing.assert_allclose(out.cls, normed[:, 0], **FLOAT32)
    np.testing.assert_allclose(out.storage_tokens, normed[:, 1:3], **FLOAT32)
    np.testing.assert_allclose(out.patch_tokens, normed[:, 3:], **FLOAT32)


@pytest.mark.parametrize("count", [0, 5])
def test_storage_token_count(count):
    out = forward(make(storage_tokens=count), IMAGES)[0]
    assert out.storage_tokens.shape == (4, count, 16)
    assert out.prenorm.shape == (4, 1 + count + 16, 16)


def test_mask_token_replaces_embeddings_only():
    model = without_blocks()
    mask = jnp.asarray(np.random.default_rng(0).random((4, 16)) < 0.5)
    plain, masked = (forward(model, IMAGES, masks=m)[0].prenorm for m in (None, (mask,)))
    np.testing.assert_array_equal(masked[:, :3], plain[:, :3])
    np.testing.assert_array_equal(masked[:, 3:][~mask], plain[:, 3:][~mask])
    wanted = jnp.broadcast_to(model.mask_token[...], (int(mask.sum()), 16))
    np.testing.assert_array_equal(masked[:, 3:][mask], wanted)


def test_masked_pixels_are_not_seen(model):
    mask = jnp.zeros((4, 16), bool).at[:, 5].set(True)  # row 1, column 1
    changed = IMAGES.at[:, 4:8, 4:8].add(1.0)
    assert_close(
        forward(model, changed, masks=(mask,))[0], forward(model, IMAGES, masks=(mask,))[0]
    )
    assert_differ(forward(model, changed)[0].cls, forward(model, IMAGES)[0].cls)


def test_no_mask_equals_an_empty_mask(model):
    empty = jnp.zeros((4, 16), bool)
    assert_close(forward(model, IMAGES, masks=(empty,))[0], forward(model, IMAGES)[0])


def test_non_square_images_transpose():
    """Height and width are treated alike but for the halves of RoPE and the order of rows."""
    model = make()
    wide = jnp.asarray(det(2, 8, 20, 3))
    out = forward(model, wide)[0]
    assert out.patch_tokens.shape == (2, 10, 16)
    # The first half of each head's frequencies is vertical: swap it, and the patch's own axes.
    kernel = np.asarray(model.patch_embed.kernel[...]).transpose(1, 0, 2, 3)
    model.patch_embed.kernel[...] = jnp.asarray(kernel)
    swap = _swap_axes_of_rope(model.blocks.attn.qkv)
    model.blocks.attn.qkv.kernel[...], model.blocks.attn.qkv.bias[...] = swap
    tall = forward(model, wide.transpose(0, 2, 1, 3))[0]
    assert_close(tall.cls, out.cls)
    patches = tall.patch_tokens.reshape(2, 5, 2, 16).transpose(0, 2, 1, 3).reshape(2, 10, 16)
    assert_close(patches, out.patch_tokens)


def _swap_axes_of_rope(qkv):
    """Exchanges vertical and horizontal channels of q and k; heads of 8: v h | v h, two each."""
    order = np.array([2, 3, 0, 1, 6, 7, 4, 5])
    columns = np.arange(48).reshape(3, 2, 8)
    columns[:2] = columns[:2][:, :, order]
    columns = columns.reshape(-1)
    return qkv.kernel[...][..., columns], qkv.bias[...][..., columns]


def test_patches_know_where_they_are():
    """Without position the CLS token could not tell a permuted image."""
    model = make()
    blocks = IMAGES.reshape(4, 4, 4, 4, 4, 3)
    shuffled = blocks[:, ::-1].reshape(4, 16, 16, 3)
    assert_differ(forward(model, shuffled)[0].cls, forward(model, IMAGES)[0].cls)


def test_image_that_is_no_multiple_of_the_patch(model):
    with pytest.raises(ValueError, match=r"18 x 23 pixels .* patch size 4; crop it to 16 x 20"):
        model(jnp.zeros((1, 18, 23, 3)))


def test_wrong_channel_count(model):
    with pytest.raises(ValueError, match="images have 4 channels, the backbone takes 3"):
        model(jnp.zeros((1, 16, 16, 4)))


def test_scan_equals_a_loop_over_blocks(model):
    entering = forward(without_blocks(), IMAGES)[0].prenorm
    graph, stacked = nnx.split(model.blocks)
    sincos = model.sincos((4, 4), None)
    x = entering[:, None]
    for z in range(2):
        block = nnx.merge(graph, jax.tree.map(lambda p: p[z], stacked))  # noqa: B023
        assert isinstance(block, Block)
        x = block(x, sincos, None)
    assert_close(model(IMAGES).prenorm, x[:, 0])


def test_on_a_tpu_tokens_are_padded_and_nobody_sees_it(model, monkeypatch):
    """19 and 7 tokens become 24 and 8; features and gradients stay what they were."""
    graph, params = nnx.split(model)

    def value_and_gradient():
        def total(params):
            out = nnx.merge(graph, params).forward((IMAGES, LOCAL), keys=GROUP_KEYS)
            return sum(jnp.sin(3 * x).sum() for x in jax.tree.leaves(out)), out

        return jax.jit(jax.grad(total, has_aux=True))(params)

    wanted = value_and_gradient()
    padded = []
    monkeypatch.setattr(vit, "platform", lambda: padded.append("tpu") or "tpu")
    got = value_and_gradient()
    assert len(padded) == 2  # crop sizes
    # atol: gradients are sums over hundreds of tokens, in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4), got, wanted)


def test_the_last_intermediate_layer_is_the_output(model):
    assert_close(model.intermediate_layers(IMAGES, 1), (model(IMAGES),))


def test_intermediate_layers_come_in_depth_order(model):
    both = model.intermediate_layers(IMAGES, 2)
    assert_close(model.intermediate_layers(IMAGES, [1, 0]), both)
    assert_close(model.intermediate_layers(IMAGES, [0]), both[:1])
    assert_differ(both[0].cls, both[1].cls)


def test_intermediate_layers_without_norm(model):
    (raw,) = model.intermediate_layers(IMAGES, [0], norm=False)
    (normed,) = model.intermediate_layers(IMAGES, [0])
    np.testing.assert_array_equal(raw.patch_tokens, raw.prenorm[:, 3:])
    assert_close(model.norm(raw.prenorm)[:, 0], normed.cls)


@pytest.mark.parametrize("layers", [3, [2], [-1], []])
def test_layers_that_do_not_exist(model, layers):
    with pytest.raises(ValueError, match="of a backbone of 2 blocks"):
        model.intermediate_layers(IMAGES, layers)


def test_crops_together_equal_crops_apart(model):
    assert_close(
        forward(model, IMAGES, LOCAL), (forward(model, IMAGES)[0], forward(model, LOCAL)[0])
    )


def test_training_without_randomness_equals_inference():
    model = make(rope_rescale=None)
    assert_close(forward(model, IMAGES, LOCAL, keys=GROUP_KEYS), forward(model, IMAGES, LOCAL))


def test_untied_local_norm_is_for_local_crops_in_training():
    untied = make(untie_global_and_local_cls_norm=True, rope_rescale=None)
    tied = make(rope_rescale=None)
    for name in ("patch_embed", "cls_token", "storage_tokens", "mask_token", "blocks", "norm"):
        setattr(tied, name, getattr(untied, name))
    assert_close(forward(untied, IMAGES, LOCAL), forward(tied, IMAGES, LOCAL))
    training = forward(untied, IMAGES, LOCAL, keys=GROUP_KEYS)
    plain = forward(tied, IMAGES, LOCAL, keys=GROUP_KEYS)
    assert_close(training[0], plain[0])
    assert_close(training[1].patch_tokens, plain[1].patch_tokens)
    normed = untied.local_cls_norm(training[1].prenorm[:, :3])
    assert_close(training[1].cls, normed[:, 0])
    assert_close(training[1].storage_tokens, normed[:, 1:])
    assert_differ(training[1].cls, plain[1].cls)


@pytest.mark.parametrize("keys", [None, GROUP_KEYS], ids=["inference", "training"])
def test_untied_patch_norm_is_for_cls_and_storage_always(keys):
    model = make(untie_cls_and_patch_norms=True, rope_rescale=None)
    for out in forward(model, IMAGES, LOCAL, keys=keys):
        assert_close(out.cls, model.cls_norm(out.prenorm[:, 0]))
        assert_close(out.storage_tokens, model.cls_norm(out.prenorm[:, 1:3]))
        assert_close(out.patch_tokens, model.norm(out.prenorm[:, 3:]))
        assert_differ(out.cls, model.norm(out.prenorm[:, 0]))


def silent_ffn(**changes):
    model = make(rope_rescale=None, **changes)
    model.blocks.ls2.gamma[...] *= 0.0
    return model


def test_blocks_and_crops_draw_their_own_samples():
    """With half of the samples dropped, two blocks must not always pick the same half."""
    model = silent_ffn(drop_path=0.5)
    entering = forward(without_blocks(), IMAGES, IMAGES)[0].prenorm
    sizes, same = [], []
    for seed in range(8):
        keys = jax.random.split(jax.random.key(seed), 1)  # one group of 4: each block keeps 2
        rows = [
            np.asarray((out.prenorm != entering).any(axis=(1, 2)))
            for out in forward(model, IMAGES, IMAGES, keys=keys)
        ]
        sizes += [row.sum() for row in rows]
        same.append((rows[0] == rows[1]).all())
    assert min(sizes) >= 2
    assert max(sizes) > 2  # the blocks' choices differ
    assert not all(same)  # the crops' choices differ


def test_groups_in_a_batch_equal_groups_alone():
    """Stochastic depth and RoPE augmentation on: a group's output is its own."""
    model = make(drop_path=0.5, rope_shift=0.2, rope_jitter=1.5)
    whole = forward(model, IMAGES, LOCAL, keys=GROUP_KEYS)
    for group in (0, 1):
        rows = slice(2 * group, 2 * group + 2)
        alone = forward(model, IMAGES[rows], LOCAL[rows], keys=GROUP_KEYS[group : group + 1])
        assert_close(jax.tree.map(lambda x: x[rows], whole), alone)  # noqa: B023


def test_rope_augmentation_is_one_draw_a_group():
    model = make(rope_rescale=2.0)
    equal = jnp.broadcast_to(IMAGES[:1], IMAGES.shape)
    cls = np.asarray(forward(model, equal, keys=GROUP_KEYS)[0].cls)
    np.testing.assert_allclose(cls[0], cls[1], **FLOAT32)
    np.testing.assert_allclose(cls[2], cls[3], **FLOAT32)
    assert_differ(cls[0], cls[2])
    np.testing.assert_allclose(*np.asarray(forward(model, equal)[0].cls)[[0, 2]], **FLOAT32)


def test_remat_changes_memory_not_gradients():
    wanted = None
    for remat, blocks in (("none", 0), ("dots", 0), ("full", 0), ("qkv+fc1", 0), ("none", 1)):
        graph, params = nnx.split(make(remat=remat, remat_blocks=blocks, drop_path=0.5))

        def loss(params):
            outputs = nnx.merge(graph, params).forward((IMAGES,), keys=GROUP_KEYS)  # noqa: B023
            return (outputs[0].cls ** 2).sum() + outputs[0].patch_tokens[:, 0].sum()

        text = str(jax.make_jaxpr(jax.grad(loss))(params))
        assert ("remat" in text or "checkpoint" in text) == ((remat, blocks) != ("none", 0))
        gradient = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
        wanted = wanted or gradient
        for a, b in zip(gradient, wanted):
            # rtol of the largest element: float32, recomputed sums in another order.
            np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


def test_bfloat16_stream(model):
    half = build(lambda rngs: VisionTransformer(student(dtype="bfloat16"), rngs=rngs))
    out = forward(half, IMAGES)[0]
    assert {x.dtype for x in out} == {jnp.dtype("bfloat16")}
    # atol: eight bits of mantissa through two blocks, values of order 1.
    np.testing.assert_allclose(out.cls.astype(jnp.float32), model(IMAGES).cls, atol=0.15)
