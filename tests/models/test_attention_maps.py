import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dinov3_jax.config import ConfigError
from dinov3_jax.models import layers
from dinov3_jax.models.attention_maps import cls_attention, cls_probabilities
from dinov3_jax.models.block import Block
from dinov3_jax.models.vit import VisionTransformer
from tests.features.models import convnext, vit
from tests.models.modules import build, student
from tests.reference import det


@pytest.mark.parametrize(
    "changes",
    [
        {"qkv_bias": True, "mask_k_bias": True},
        {"qkv_bias": True, "mask_k_bias": False},
        {"qkv_bias": False, "norm": "rmsnorm"},
    ],
)
def test_these_probabilities_are_what_the_block_uses(changes):
    """Values averaged by them are the CLS row of the block's own attention."""
    config = student(layerscale=None, **changes)
    block = build(lambda rngs: Block(config, rngs=rngs))
    whole = build(lambda rngs: VisionTransformer(config, rngs=rngs))
    tokens, sincos = det(2, 3 + 6, config.embed_dim), whole.sincos((2, 3), None)
    got = cls_probabilities(block, tokens, tuple(x[0] for x in sincos))
    assert got.shape == (2, config.num_heads, 9)
    x = block.norm1(tokens)
    v = x @ block.attn.qkv.kernel[:, -config.embed_dim :]
    if config.qkv_bias:
        v = v + block.attn.qkv.bias[-config.embed_dim :]
    v = v.reshape(2, 9, config.num_heads, -1)
    mean = jnp.einsum("nat,ntac->nac", got, v).reshape(2, -1)
    wanted = block.attn(x[None], sincos)[0, :, 0]
    # rtol, atol: float32 sums in another order.
    np.testing.assert_allclose(layers.dense(block.attn.proj, mean, fp8=False), wanted, 1e-4, 1e-5)


@pytest.mark.parametrize("layer", [0, 1])
def test_maps_see_what_the_blocks_before_made(layer):
    """Equal to the same function on the tokens that ``intermediate_layers`` gives."""
    model, images = vit(), det(2, 8, 12, 3)
    got = cls_attention(model, images, layer)
    assert got.shape == (2, 2, 2, 3)
    whole = nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: VisionTransformer(
        model.config, rngs=nnx.Rngs(0)))), model.params)  # fmt: skip
    if layer:
        tokens = model.intermediate_layers(images, (layer - 1,), norm=False)[0].prenorm
    else:
        tokens = whole._tokenize(images, None)[0]
    graph, stacked = nnx.split(whole.blocks)
    block = nnx.merge(graph, jax.tree.map(lambda p: p[layer], nnx.to_pure_dict(stacked)))
    sincos = tuple(x[0] for x in whole.sincos((2, 3), None))
    wanted = cls_probabilities(block, tokens, sincos)
    # rtol, atol: compiled as a whole or not.
    np.testing.assert_allclose(got.reshape(2, 2, 6), wanted[..., 3:], 1e-4, 1e-6)
    np.testing.assert_allclose(wanted.sum(axis=-1), 1.0, rtol=1e-5)  # float32 softmax


def test_keys_of_zero_look_everywhere_alike():
    model = vit()
    kernel = model.params["blocks"]["attn"]["qkv"]["kernel"]
    model.params["blocks"]["attn"]["qkv"]["kernel"] = kernel.at[:, :, 16:32].set(0.0)
    got = cls_attention(model, det(1, 8, 12, 3), 1)
    np.testing.assert_allclose(got, 1 / 9, rtol=1e-6)  # one rounding


def test_mistakes():
    with pytest.raises(ConfigError, match="tiny_convnext is a ConvNeXt, which has no attention"):
        cls_attention(convnext(), det(1, 32, 32, 3), 0)
    for layer in (-1, 2):
        with pytest.raises(ConfigError, match=f"layer {layer} is asked of tiny, which has 2 bl"):
            cls_attention(vit(), det(1, 8, 8, 3), layer)
