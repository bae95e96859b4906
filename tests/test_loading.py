"""``load``: every format there and back to the bit, and every mistake in a sentence."""

import dataclasses
import hashlib
import json
import logging
import sys
import types

import jax
import ml_dtypes
import numpy as np
import pytest

import dinov3_jax
from dinov3_jax.config import VitConfig
from dinov3_jax.convert import files, names, released
from dinov3_jax.convert.official import WeightsError, to_official
from dinov3_jax.convert.save import save
from dinov3_jax.loading import load
from dinov3_jax.models import presets
from dinov3_jax.models.model import Model, abstract_params
from dinov3_jax.train import start
from tests.models.modules import student
from tests.tiny import tiny_config
from tests.train.saved import save_run

CONVNEXT = dict(stage_depths=(1, 1, 2, 1), stage_dims=(8, 8, 12, 16))
CONFIGS = {
    "mlp": student(),
    "swiglu": student(ffn="swiglu", ffn_ratio=6.0),
    "no qkv bias": student(qkv_bias=False),
    "no storage tokens": student(storage_tokens=0),
    "convnext": presets.complete(released.vit_section("convnext_tiny", **CONVNEXT)),
}


def make(config, *, name="tiny", seed=0, **more) -> Model:
    """Random numbers in every parameter; the k bias is 0, as the mask has it."""
    rng = np.random.default_rng(seed)
    draw = lambda x: rng.standard_normal(x.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, abstract_params(config))
    if getattr(config, "qkv_bias", False):
        bias = params["blocks"]["attn"]["qkv"]["bias"]
        np.split(bias, 3, axis=1)[1][:] = 0.0
    return Model(name, config, params, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), **more)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def official(tmp_path):
    """(model, its official file)."""
    model = make(CONFIGS["mlp"])
    save(model, tmp_path / "tiny.safetensors", "official")
    return model, tmp_path / "tiny.safetensors"


def plain(path, tensors, dtype="F32"):
    """A file without a description, as others write them."""
    files.write(path, tensors, {"format": "pt"})
    return path


@pytest.mark.parametrize("form", ["official", "hf", "timm", "orbax"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_there_and_back_to_the_bit(kind, form, tmp_path, caplog):
    model = make(CONFIGS[kind])
    path = tmp_path / ("out.safetensors" if form in ("official", "timm") else "out")
    save(model, path, form)
    with caplog.at_level(logging.INFO):
        back = load(path)
    assert back.mean == model.mean
    assert back.std == model.std
    assert back.stride == model.stride
    wanted = dict(model.params)
    if form == "timm" and kind != "convnext":  # it has no place for the mask token
        wanted["mask_token"] = np.zeros_like(wanted["mask_token"])
        assert "mask_token is absent: zeros" in caplog.text
    assert_same(dict(back.params), wanted)
    if form != "orbax":
        assert back.config == model.config
        count = len(files.read(path).tensors)
        assert f"{count} of {count} tensors used" in caplog.text


def test_a_chain_through_every_format(tmp_path):
    model = make(CONFIGS["swiglu"])
    save(model, tmp_path / "a.safetensors", "official")
    for i, form in enumerate(["hf", "orbax", "official"]):
        source = load(tmp_path / ("a.safetensors" if i == 0 else f"{i - 1}.safetensors"))
        save(source, tmp_path / f"{i}.safetensors", form)
    first, last = (files.read(tmp_path / n).tensors for n in ("a.safetensors", "2.safetensors"))
    assert first.keys() == last.keys()
    for name in first:
        np.testing.assert_array_equal(np.asarray(first[name]), np.asarray(last[name]))


@pytest.mark.parametrize("name", released.list_models())
@pytest.mark.parametrize("form", ["hf", "timm"])
def test_every_tensor_of_every_release_has_its_place(name, form):
    """Names alone, in both directions: 7 billion parameters without their memory."""
    config = released.describe(released.CATALOGUE[name]).config
    shapes = released.official_shapes(config)
    state = {k: np.broadcast_to(np.float32(0), v) for k, v in shapes.items()}
    theirs, dropped = names.to_foreign(state, form)
    found, (back, left) = names.from_foreign(theirs)
    assert found == form
    assert not left
    assert {k: v.shape for k, v in back.items()} == {
        k: v for k, v in shapes.items() if k not in dropped
    }
    vit = "convnext" not in name
    unsaid = {"norms.3.weight", "norms.3.bias"} if not vit else set()
    if vit and config.untie_global_and_local_cls_norm:
        unsaid |= {"local_cls_norm.weight", "local_cls_norm.bias"}
    if vit and form == "timm":
        unsaid.add("mask_token")
    assert set(dropped) == unsaid


def test_version_5_names_and_a_training_export(tmp_path):
    model = make(CONFIGS["mlp"])
    theirs = names.to_foreign(to_official(model.params), "hf").state
    inner = {f"model.{k}" if k.startswith("layer.") else k: v for k, v in theirs.items()}
    export = {f"backbone.{k}": v for k, v in to_official(model.params).items()}
    export |= {"dino_head.mlp.0.weight": np.zeros((2, 2), np.float32)}
    save(model, tmp_path / "described.safetensors", "official")
    for i, state in enumerate((inner, export)):
        path = plain(tmp_path / f"{i}.safetensors", state)
        assert_same(load(tmp_path / "described.safetensors", path).params, model.params)


def test_a_run(tmp_path):
    config = tiny_config(**{"student.depth": 1})
    states = save_run(tmp_path / "run", config, [3, 20])
    model = load(tmp_path / "run")
    assert model.name == "tiny"
    assert model.mean == config.crops.mean
    assert_same(model.params, states[20].teacher["backbone"])
    other = load(tmp_path / "run/checkpoints/3", item="student")
    assert_same(other.params, states[3].student["backbone"])
    (tmp_path / "empty/checkpoints").mkdir(parents=True)
    with pytest.raises(WeightsError, match=r"has the checkpoints \[\], wanted one"):
        load(tmp_path / "empty")


def test_a_stage_starts_from_converted_weights(tmp_path):
    source = tiny_config()
    model = make(presets.complete(source.student))
    save(model, tmp_path / "w", "orbax")
    keys = {"init.from": str(tmp_path / "w"), "init.heads": False}
    found = start.find_sources(tiny_config(**keys), resuming=False)
    assert found.init == (str(tmp_path / "w"), 0)
    with pytest.raises(ValueError, match="a backbone without heads"):
        start.find_sources(tiny_config(**{"init.from": str(tmp_path / "w")}), resuming=False)
    assert VitConfig(**json.loads((tmp_path / "w/config.json").read_text())["config"]["student"])


def test_half_precision_is_read_exactly(tmp_path, official):
    model, path = official
    safetensors = pytest.importorskip("safetensors.numpy")
    state = {k: np.asarray(v) for k, v in files.read(path).tensors.items()}
    metadata = files.read(path).metadata
    for dtype in (np.float16, ml_dtypes.bfloat16):
        half = {k: v.astype(dtype) for k, v in state.items()}
        other = tmp_path / f"{np.dtype(dtype).name}.safetensors"
        safetensors.save_file(half, other, metadata)
        wanted = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), model.params)  # noqa: B023
        assert_same(load(other).params, wanted)


def test_our_files_are_read_by_the_library_of_the_format(official):
    safetensors = pytest.importorskip("safetensors.numpy")
    _, path = official
    theirs, ours = safetensors.load_file(path), files.read(path).tensors
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(value, np.asarray(ours[name]))


def test_shards(tmp_path, official):
    model, path = official
    state = {k: np.asarray(v) for k, v in files.read(path).tensors.items()}
    where = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(state)}
    folder = tmp_path / "sharded"
    for file in set(where.values()):
        plain(folder / file, {k: v for k, v in state.items() if where[k] == file})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert_same(load(path, folder).params, model.params)
    index.write_text(json.dumps({"weight_map": where | {"x": "model-0.safetensors"}}))
    with pytest.raises(WeightsError, match=r"names x, which model-0.safetensors lacks"):
        load(path, folder)


def test_stored_and_exact_periods(tmp_path, caplog):
    save(make(student(num_heads=1)), path := tmp_path / "one.safetensors", "official")
    state = {k: np.asarray(v) for k, v in files.read(path).tensors.items()}
    exact = state["rope_embed.periods"]
    rounded = exact.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert (rounded != exact).any()
    other = plain(tmp_path / "r.safetensors", state | {"rope_embed.periods": rounded})
    with caplog.at_level(logging.INFO):
        assert load(path, other).config.rope_periods is None
    assert "stored RoPE periods replaced by exact ones" in caplog.text
    stored = load(path, other, rope_periods="stored")
    np.testing.assert_array_equal(stored.config.rope_periods, rounded)
    images = np.random.default_rng(0).standard_normal((1, 16, 16, 3)).astype(np.float32)
    a, b = load(path, other)(images).cls, stored(images).cls
    assert 0 < np.abs(a - b).max() < 0.1  # a rounding of 2^-9 of the angles, of values of order 1
    wrong = plain(tmp_path / "w.safetensors", state | {"rope_embed.periods": 2 * exact})
    with pytest.raises(WeightsError, match=r"periods are up to 100.0% from those"):
        load(path, wrong)
    without = {k: v for k, v in state.items() if k != "rope_embed.periods"}
    with pytest.raises(WeightsError, match="stores no RoPE periods"):
        load(path, plain(tmp_path / "n.safetensors", without), rope_periods="stored")


def test_timm_without_biases(tmp_path, official, caplog):
    model, path = official
    state = names.to_foreign(to_official(model.params), "timm").state
    bare = {k: v for k, v in state.items() if not k.endswith(("q_bias", "v_bias"))}
    with caplog.at_level(logging.INFO):
        back = load(path, plain(tmp_path / "t.safetensors", bare))
    assert not np.asarray(back.params["blocks"]["attn"]["qkv"]["bias"]).any()
    assert "biases of q and v are absent: zeros" in caplog.text


def test_a_file_cut_off(tmp_path, official):
    _, path = official
    data = path.read_bytes()
    for length in (4, 100, len(data) - 8):
        cut = tmp_path / f"{length}.safetensors"
        cut.write_bytes(data[:length])
        with pytest.raises(WeightsError, match="is cut off or damaged"):
            load(path, cut)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": (1000, 8192), "bias": (1000,)}, "the tensors of a linear classifier"),
        ({"reassemble_blocks.projects.0.conv.weight": (2, 2)}, "a dense prediction"),
        ({"encoder.w": (2, 2)}, r"of no backbone that is known \(encoder.w"),
    ],
)
def test_no_backbone(tmp_path, official, tensors, message):
    state = {k: np.zeros(v, np.float32) for k, v in tensors.items()}
    with pytest.raises(WeightsError, match=message):
        load(official[1], plain(tmp_path / "h.safetensors", state))


def test_extra_and_missing_tensors_are_named(tmp_path, official):
    _, path = official
    state = {k: np.asarray(v) for k, v in files.read(path).tensors.items()}
    state["extra.weight"] = state.pop("norm.bias")
    with pytest.raises(WeightsError, match=r"norm.bias is missing.*extra.weight is left over"):
        load(path, plain(tmp_path / "x.safetensors", state))


def test_another_released_model_is_named(tmp_path):
    """Zeros of 21 million parameters, as transformers names them."""
    config = released.describe(released.CATALOGUE["dinov3_vits16"]).config
    state = {k: np.zeros(v, np.float32) for k, v in released.official_shapes(config).items()}
    path = plain(tmp_path / "s.safetensors", names.to_foreign(state, "hf").state)
    message = r"holds dinov3_vits16, not dinov3_vitb16: load\('dinov3_vits16'"
    with pytest.raises(WeightsError, match=message):
        load("dinov3_vitb16", path)
    assert load(path).name == "dinov3_vits16"
    assert load("dinov3_vits16", path, dtype="bfloat16").config.dtype == "bfloat16"


def test_settings_that_no_shape_shows(tmp_path):
    config = dataclasses.replace(CONFIGS["mlp"])
    save(make(config), tmp_path / "hf", "hf")
    save(make(dataclasses.replace(config, num_heads=4)), tmp_path / "b.safetensors", "official")
    with pytest.raises(WeightsError, match="num_heads 2, not 4"):
        load(tmp_path / "b.safetensors", tmp_path / "hf")


def test_digests_of_official_names(tmp_path, monkeypatch):
    wrong = tmp_path / "dinov3_vits16_pretrain_lvd1689m-08c60483.pth"
    wrong.write_bytes(b"abc")
    got = hashlib.sha256(b"abc").hexdigest()[:8]
    with pytest.raises(WeightsError, match=f"has the sha256 {got}..., its name says 08c60483"):
        load("dinov3_vits16", wrong)
    head = tmp_path / "dinov3_vit7b16_imagenet1k_linear_head-90d8ed92.pth"
    head.touch()
    with pytest.raises(WeightsError, match="is a linear classifier, no backbone"):
        load("dinov3_vit7b16", head)
    right = tmp_path / f"dinov3_vits16_x-{got}.pth"
    right.write_bytes(b"abc")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(WeightsError, match="needs PyTorch: pip install torch"):
        load("dinov3_vits16", right)


def test_names():
    with pytest.raises(WeightsError, match="did you mean 'dinov3_vitb16'"):
        load("dinov3_vitb")
    with pytest.raises(WeightsError, match="there is no file or folder /no/such"):
        load("dinov3_vitb16", "/no/such")
    with pytest.raises(WeightsError, match="dtype is 'int8', wanted one of"):
        load("dinov3_vitb16", dtype="int8")
    assert len(dinov3_jax.list_models()) == 13
    assert dinov3_jax.load is load


@pytest.mark.parametrize(("status", "message"), [(403, "accept its licence"), (None, "check name")])
def test_downloads_that_fail(monkeypatch, status, message):
    def snapshot_download(repository, allow_patterns):
        assert repository == "facebook/dinov3-vitb16-pretrain-lvd1689m"
        error = OSError("no")
        error.response = types.SimpleNamespace(status_code=status)
        raise error

    library = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    with pytest.raises(WeightsError, match=message):
        load("dinov3_vitb16")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"pip install 'dinov3_jax\[hub\]'"):
        load("dinov3_vitb16")
    with pytest.raises(WeightsError, match="has no Hugging Face repository"):
        load("dinov3_vitl16plus")


def test_nothing_is_overwritten(official):
    model, path = official
    with pytest.raises(WeightsError, match="is there already"):
        save(model, path, "timm")


def test_no_layerscale_is_one_of_ones_for_others(tmp_path):
    model = make(student(layerscale=None))
    save(model, tmp_path / "hf", "hf")
    back = load(tmp_path / "hf")
    for name in ("ls1", "ls2"):
        np.testing.assert_array_equal(back.params["blocks"][name]["gamma"], 1.0)
    images = np.random.default_rng(0).standard_normal((2, 8, 12, 3), np.float32)
    # atol: float32, values of order 1.
    np.testing.assert_allclose(back(images).cls, model(images).cls, atol=1e-5)
    save(model, tmp_path / "timm.safetensors", "timm")
    gamma = files.read(tmp_path / "timm.safetensors").tensors["blocks.0.gamma_1"]
    np.testing.assert_array_equal(gamma, 1.0)
