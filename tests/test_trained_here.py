"""A model trained here, taken out of its run and run by others."""

import numpy as np
import pytest
from etils import epath

import dinov3_jax
from dinov3_jax.cli import convert, export
from dinov3_jax.train.loop import train
from tests.reference import det
from tests.train.runs import tiny_config, write_images

EIGHT = {"mesh.fsdp": -1, "batch.images": 16, "batch.group": 2}  # devices of the tests
IMAGES = det(2, 16, 24, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of twelve steps."""
    folder = tmp_path_factory.mktemp("trained")
    train(tiny_config(write_images(folder / "images"), **EIGHT), epath.Path(folder / "run"))
    return folder / "run"


@pytest.mark.parity
def test_by_transformers(run, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    convert.run([str(run), str(tmp_path / "hf"), "--to=hf"])
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        got = theirs(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())).pooler_output.numpy()
    wanted = dinov3_jax.load(run)(IMAGES).cls
    # Of the largest value: float32 through one block.
    np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.export
def test_by_onnxruntime(run, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    export.run([f"--model={run}", "--to=onnx", f"--out={file}", "--size=16x24"])
    assert "agrees with the model" in capsys.readouterr().out
    got = onnxruntime.InferenceSession(str(file)).run(["cls"], {"images": IMAGES})[0]
    wanted = dinov3_jax.load(run)(IMAGES).cls
    # Of the largest value: float32 through one block.
    np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())
