"""Every file is checked by the export itself; here: that this check is one, and what files hold."""

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest

import dinov3_jax
from dinov3_jax.augment.normalize import normalize
from dinov3_jax.convert import official
from dinov3_jax.export import onnx, safetensors, stablehlo
from dinov3_jax.export.export import export
from dinov3_jax.export.signature import ExportError, Signature
from dinov3_jax.models.model import Model, random_model
from dinov3_jax.models.presets import complete
from tests.tiny import CONVNEXT, tiny_config

ANY = Signature(batch=None, size=None, outputs="tokens", pixels=False)
NETWORKS = {
    "mlp": {},
    "swiglu": {
        "student.ffn": "swiglu",
        "student.norm": "rmsnorm",
        "student.storage_tokens": 0,
        "student.qkv_bias": False,
        "student.untie_cls_and_patch_norms": True,
    },
    "convnext": CONVNEXT,
}


@functools.cache
def make(network: str) -> Model:
    """No parameter at its initial 0 or 1, so that each shows in the outputs."""
    model = random_model(network, complete(tiny_config(**NETWORKS[network]).student))
    rng = np.random.default_rng(0)
    draw = lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape, dtype=np.float32)  # noqa: E731
    return dataclasses.replace(model, params=jax.tree.map(draw, model.params))


def fixed(model: Model, **changes) -> Signature:
    """Images of 4 x 6 strides."""
    return dataclasses.replace(ANY, size=(4 * model.stride, 6 * model.stride), **changes)


@pytest.mark.parametrize("network", ["mlp", "convnext"])
def test_a_stablehlo_file_is_the_model_for_any_batch_and_size(network, tmp_path):
    pytest.importorskip("flatbuffers")
    model, out = make(network), tmp_path / "model.stablehlo"
    # Exported and jitted, XLA compiles one program twice; float32 sums may differ in order.
    assert export(model, out, to="stablehlo", signature=ANY) < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, f"{out.name}.json"]
    exported = jax.export.deserialize(bytearray(out.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert len(exported.in_avals) == 1  # the weights are inside
    facts = json.loads(pathlib.Path(f"{out}.json").read_text())
    stride = f"multiples of {model.stride}"
    assert facts["images"]["shape"] == ["any", stride, stride, 3]
    assert facts["config"]["arch"] == model.config.arch


def test_pixels_are_normalised_inside(tmp_path):
    pytest.importorskip("flatbuffers")
    model, out = make("mlp"), tmp_path / "model.stablehlo"
    model = dataclasses.replace(model, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    export(model, out, to="stablehlo", signature=fixed(model, outputs="cls", pixels=True, batch=2))
    levels = np.random.default_rng(1).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    got = stablehlo.load(out)(levels)
    assert list(got) == ["cls"]
    wanted = model(normalize(levels, mean=model.mean, std=model.std)).cls
    np.testing.assert_allclose(got["cls"], wanted, atol=1e-5)  # float32, of order 1
    facts = json.loads(pathlib.Path(f"{out}.json").read_text())
    assert facts["images"]["dtype"] == "uint8"
    assert facts["images"]["shape"] == [2, 16, 24, 3]


@pytest.mark.parametrize("network", NETWORKS)
def test_a_safetensors_file_has_official_names_and_the_configuration(network, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    model, out = make(network), tmp_path / "model.safetensors"
    assert export(model, out, to="safetensors", signature=None) == 0.0
    wanted = official.to_official(model.params)
    found = numpy.load_file(str(out))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
    header = json.loads(out.read_bytes()[8 : 8 + int.from_bytes(out.read_bytes()[:8], "little")])
    assert header["__metadata__"]["format"] == "pt"
    loaded = dinov3_jax.load(out)
    assert loaded.config == dataclasses.replace(model.config, dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_a_file_with_other_numbers_fails_and_keeps_its_bad_name(wrong, tmp_path, monkeypatch):
    load = safetensors.load

    def damaged(path, like):
        params = load(path, like)
        params["norm"]["bias"] = params["norm"]["bias"] + np.float32(wrong)
        return params

    model, out = make("mlp"), tmp_path / "model.safetensors"
    monkeypatch.setattr(safetensors, "load", damaged)
    with pytest.raises(ExportError, match=r"more than the 5e-05 allowed.*left as .*\.failed"):
        export(model, out, to="safetensors", signature=None)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors.failed"]
    monkeypatch.setattr(safetensors, "load", load)
    export(model, out, to="safetensors", signature=None)  # once mended, nothing bad is left
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    with pytest.raises(ExportError, match="exists: remove it"):
        export(model, out, to="safetensors", signature=None)


@pytest.mark.parametrize(
    ("to", "size", "message"),
    [
        ("stablehlo", (16, 23), "multiples of the model's stride 4, such as 16x20"),
        ("stablehlo", (0, 16), "such as 4x16"),
        ("onnx", None, "one file a size"),
    ],
)
def test_sizes_that_cannot_be(to, size, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(make("mlp"), tmp_path / "x", to=to, signature=dataclasses.replace(ANY, size=size))


def test_a_grid_measured_by_its_longer_side_has_one_size(tmp_path):
    model = make("mlp")
    config = dataclasses.replace(model.config, rope_normalize="max")
    model = dataclasses.replace(model, config=config)
    with pytest.raises(ExportError, match="rope_normalize='max'"):
        export(model, tmp_path / "x", to="stablehlo", signature=ANY)


def test_a_missing_package_is_a_sentence_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model = make("mlp")
    with pytest.raises(ExportError, match=r"needs onnx and onnxruntime: pip install .*\[onnx\]"):
        export(model, tmp_path / "x", to="onnx", signature=fixed(model))


def test_more_weights_than_a_stablehlo_file_holds(tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers")
    monkeypatch.setattr(stablehlo, "_MAX_BYTES", 10_000)
    with pytest.raises(ExportError, match="use --to=savedmodel or --to=onnx"):
        export(make("mlp"), tmp_path / "x", to="stablehlo", signature=ANY)


@pytest.mark.export
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("pixels", [False, True])
def test_an_onnx_file_is_the_model_for_any_batch(network, pixels, tmp_path):
    onnx_package = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model, out = make(network), tmp_path / "model.onnx"
    assert export(model, out, to="onnx", signature=fixed(model, pixels=pixels)) < 1e-5  # as above
    proto = onnx_package.load(str(out))
    assert [value.name for value in proto.graph.input] == ["images"]
    storage = ["storage_tokens"] if network == "mlp" else []
    assert [x.name for x in proto.graph.output] == ["cls", *storage, "patch_tokens"]
    operators = {node.op_type for node in proto.graph.node}
    assert not operators & {"Loop", "Scan", "If", "Sin", "Cos", "Range", "Where"}
    names = {value.name for value in proto.graph.initializer}
    assert not [name for name in names if "mask" in name]
    facts = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert facts == json.loads(pathlib.Path(f"{out}.json").read_text())


@pytest.mark.export
def test_an_onnx_file_of_heavy_weights_has_a_second_one(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx, "_MAX_BYTES", 1000)
    model, out = make("mlp"), tmp_path / "model.onnx"
    export(model, out, to="onnx", signature=fixed(model, outputs="cls"))
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.onnx",
        "model.onnx.data",
        "model.onnx.json",
    }
    images = np.zeros((1, 16, 24, 3), np.float32)
    # float32, of order 1
    np.testing.assert_allclose(onnx.load(out)(images)["cls"], model(images).cls, atol=1e-5)


@pytest.mark.export
def test_an_onnx_file_of_a_bfloat16_model_is_in_float32(tmp_path):
    pytest.importorskip("onnxruntime")
    model, out = make("mlp"), tmp_path / "model.onnx"
    config = dataclasses.replace(model.config, dtype="bfloat16", rope_dtype="bfloat16")
    low = dataclasses.replace(model, config=config)
    export(low, out, to="onnx", signature=fixed(model, outputs="cls"))
    images = np.random.default_rng(2).standard_normal((1, 16, 24, 3), dtype=np.float32)
    np.testing.assert_allclose(onnx.load(out)(images)["cls"], model(images).cls, atol=1e-5)


@pytest.mark.export
@pytest.mark.parametrize("network", ["mlp", "convnext"])
def test_a_savedmodel_is_the_model_for_any_batch_and_size(network, tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    model, out = make(network), tmp_path / "model"
    signature = dataclasses.replace(ANY, pixels=network == "mlp")
    assert export(model, out, to="savedmodel", signature=signature) < 1e-5  # as above
    serving = tensorflow.saved_model.load(str(out)).signatures["serving_default"]
    (images,) = serving.structured_input_signature[1].values()
    assert images.shape.as_list() == [None, None, None, 3]
    assert images.dtype == signature.dtype
