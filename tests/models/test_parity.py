"""Against an implementation by others: ``transformers``, random weights, float32 on the CPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dinov3_jax.convert.official import from_official
from dinov3_jax.models.vit import VisionTransformer
from tests.models.modules import student
from tests.reference import det

pytestmark = pytest.mark.parity

# Their name -> the official one, inside a block and outside.
BLOCK = {
    "attention.o_proj.": "attn.proj.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.gate_proj.": "mlp.w1.",
    "norm1.": "norm1.",
    "norm2.": "norm2.",
}
UNGATED = {"mlp.up_proj.": "mlp.fc1.", "mlp.down_proj.": "mlp.fc2."}
GATED = {"mlp.up_proj.": "mlp.w2.", "mlp.down_proj.": "mlp.w3."}
OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "storage_tokens",
    "embeddings.patch_embeddings.": "patch_embed.proj.",
    "norm.": "norm.",
}


def official_names(state: dict, *, gated: bool) -> dict:
    """Their parameters -> the official ones: q, k and v become one matrix, k's bias is 0."""
    out, parts = {}, {}
    for name, value in state.items():
        block = re.match(r"(?:model\.)?layer\.(\d+)\.(.*)", name)
        if block and (part := re.match(r"attention\.([qkv])_proj\.(\w+)", block[2])):
            parts[block[1], part[1], part[2]] = value
            continue
        prefix, inner = (f"blocks.{block[1]}.", block[2]) if block else ("", name)
        table = (BLOCK | (GATED if gated else UNGATED)) if block else OUTSIDE
        (start,) = (key for key in table if inner.startswith(key))
        out[prefix + table[start] + inner.removeprefix(start)] = value
    for index in {key[0] for key in parts}:
        weights = [parts[index, part, "weight"] for part in "qkv"]
        out[f"blocks.{index}.attn.qkv.weight"] = np.concatenate(weights)
        if (index, "q", "bias") in parts:
            biases = (parts[index, "q", "bias"], parts[index, "v", "bias"])
            whole = [biases[0], np.zeros_like(biases[0]), biases[1]]
            out[f"blocks.{index}.attn.qkv.bias"] = np.concatenate(whole)
    out["mask_token"] = out["mask_token"].reshape(1, -1)
    return out


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_outputs_equal_transformers(ffn, qkv_bias):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    gated = ffn == "swiglu"
    theirs = transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(
            patch_size=4,
            image_size=16,
            hidden_size=16,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_register_tokens=2,
            use_gated_mlp=gated,
            hidden_act="silu" if gated else "gelu",
            query_bias=qkv_bias,
            value_bias=qkv_bias,
        )
    ).eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            draw = 0.3 * rng.standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.tensor(draw, dtype=torch.float32))
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}

    config = student(ffn=ffn, ffn_ratio=6.0 if gated else 4.0, qkv_bias=qkv_bias)
    model = nnx.eval_shape(lambda: VisionTransformer(config, rngs=nnx.Rngs(0)))
    graph, shapes = nnx.split(model)
    params = from_official(official_names(state, gated=gated), nnx.to_pure_dict(shapes))
    ours = nnx.merge(graph, jax.tree.map(jnp.asarray, params))

    images = det(2, 16, 24, 3)
    masks = rng.random((2, 24)) < 0.4
    for mask in (None, masks):
        with torch.no_grad():
            wanted = theirs(
                torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
                bool_masked_pos=None if mask is None else torch.from_numpy(mask),
            )
        got = ours.forward([jnp.asarray(images)], masks=None if mask is None else [mask])[0]
        tokens = np.concatenate([got.cls[:, None], got.storage_tokens, got.patch_tokens], axis=1)
        # atol: float32 through two blocks, values of order 1.
        np.testing.assert_allclose(tokens, wanted.last_hidden_state.numpy(), atol=2e-5)
        np.testing.assert_allclose(got.cls, wanted.pooler_output.numpy(), atol=2e-5)
