"""Against an implementation by others: ``transformers``, random weights, float32 on the CPU."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dinov3_jax.config import ConvNextConfig
from dinov3_jax.convert.names import from_foreign
from dinov3_jax.convert.official import WeightsError, from_official
from dinov3_jax.convert.save import save
from dinov3_jax.loading import load
from dinov3_jax.models.convnext import ConvNext
from dinov3_jax.models.vit import VisionTransformer
from tests.models.modules import build, student
from tests.reference import det
from tests.test_loading import CONFIGS, assert_same, make

pytestmark = pytest.mark.parity


def draw(theirs) -> dict:
    """Random numbers in every parameter; returns them by name."""
    import torch

    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            value = 0.3 * rng.standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.tensor(value, dtype=torch.float32))
    return {name: value.numpy() for name, value in theirs.state_dict().items()}


def filled(make, state: dict):
    """Our module with the parameters of ``state`` (official names)."""
    graph, shapes = nnx.split(nnx.eval_shape(make))
    params = from_official(state, nnx.to_pure_dict(shapes))
    return nnx.merge(graph, jax.tree.map(jnp.asarray, params))


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
    state = draw(theirs)
    config = student(ffn=ffn, ffn_ratio=6.0 if gated else 4.0, qkv_bias=qkv_bias)
    ours = filled(lambda: VisionTransformer(config, rngs=nnx.Rngs(0)), from_foreign(state)[1].state)

    images = det(2, 16, 24, 3)
    masks = np.random.default_rng(0).random((2, 24)) < 0.4
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


def test_convnext_equals_transformers():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    depths, dims = (1, 2, 3, 1), (8, 12, 16, 24)
    theirs = transformers.DINOv3ConvNextModel(
        transformers.DINOv3ConvNextConfig(depths=list(depths), hidden_sizes=list(dims))
    ).eval()
    config = ConvNextConfig("convnext_tiny", None, 3, depths, dims, "float32", "none")
    state = from_foreign(draw(theirs))[1].state
    ours = filled(lambda: ConvNext(config, rngs=nnx.Rngs(0)), state)
    images = det(2, 64, 96, 3)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    got = ours(jnp.asarray(images))
    tokens = np.concatenate([got.cls[:, None], got.patch_tokens], axis=1)
    # atol: float32 through seven blocks, values of order 1.
    np.testing.assert_allclose(tokens, wanted.last_hidden_state.numpy(), atol=2e-5)
    np.testing.assert_allclose(got.cls, wanted.pooler_output.numpy(), atol=2e-5)


@pytest.mark.parametrize("patch_size", [16, 14])
def test_maps_on_the_patch_grid_equal_torch(patch_size):
    """Stage by stage: shrunk by 4 and 2 (antialiased), kept, doubled; and odd ratios."""
    torch = pytest.importorskip("torch")
    config = ConvNextConfig("convnext_tiny", None, 3, (1, 1, 1, 1), (8, 8, 8, 8), "float32", "none")
    images = jnp.asarray(det(2, 64, 96, 3))

    def maps(patch_size):
        changed = dataclasses.replace(config, patch_size=patch_size)
        model = build(lambda rngs: ConvNext(changed, rngs=rngs))
        return model.intermediate_layers(images, 4, norm=False)

    size = (64 // patch_size, 96 // patch_size)
    for stage, (before, after) in enumerate(zip(maps(None), maps(patch_size))):
        side = (16 >> stage, 24 >> stage)
        native = np.array(before.patch_tokens).reshape(2, *side, 8).transpose(0, 3, 1, 2)
        wanted = torch.nn.functional.interpolate(
            torch.from_numpy(native.copy()), size, mode="bilinear", antialias=True
        ).numpy()
        got = np.asarray(after.patch_tokens).reshape(2, *size, 8).transpose(0, 3, 1, 2)
        # Of the largest value: float32 sums of up to 100 products.
        np.testing.assert_allclose(got, wanted, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", CONFIGS)
def test_transformers_loads_what_we_write(kind, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = make(CONFIGS[kind])
    save(model, tmp_path / "hf", "hf")
    theirs, report = transformers.AutoModel.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = det(2, 64, 32, 3)
    with torch.no_grad():
        wanted = theirs.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    got = model(images)
    tokens = np.concatenate([got.cls[:, None], got.storage_tokens, got.patch_tokens], axis=1)
    scale = float(wanted.last_hidden_state.abs().max())
    # Of the largest value: float32 through a few blocks.
    np.testing.assert_allclose(tokens, wanted.last_hidden_state.numpy(), atol=1e-5 * scale)
    # And back: what they write, and a .pth of the same.
    theirs.save_pretrained(tmp_path / "theirs")
    assert_same(load(tmp_path / "theirs").params, model.params)
    save(model, tmp_path / "official.pth", "official")
    assert_same(load(tmp_path / "hf", tmp_path / "official.pth").params, model.params)
    nested = {f"backbone.{k}": v for k, v in torch.load(tmp_path / "official.pth").items()}
    torch.save({"teacher": nested}, tmp_path / "teacher_checkpoint.pth")
    assert_same(load(tmp_path / "hf", tmp_path / "teacher_checkpoint.pth").params, model.params)
    whole = (tmp_path / "official.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="cut off or damaged"):
        load(tmp_path / "hf", tmp_path / "cut.pth")
