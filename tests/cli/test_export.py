import pytest

from dinov3_jax.cli import export
from dinov3_jax.export.signature import ExportError
from dinov3_jax.models.model import random_model
from dinov3_jax.models.presets import complete
from tests.tiny import tiny_config


@pytest.fixture
def model(monkeypatch):
    model = random_model("tiny", complete(tiny_config().student))
    monkeypatch.setattr(export, "open_model", lambda options: model)
    return model


def test_it_writes_a_file_and_says_how_near_it_is(model, tmp_path, capsys):
    pytest.importorskip("flatbuffers")
    out = tmp_path / "model.stablehlo"
    flags = ["--to=stablehlo", "--size=16x24", "--batch=2", "--outputs=cls"]
    export.run([f"--model={model.name}", f"--out={out}", *flags])
    assert out.is_file()
    assert "agrees with the model to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to=stablehlo", "--size=large"], "--size is 'large', wanted pixels such as 224"),
        (["--to=onnx", "--batch=0"], "--batch is '0', wanted a positive number or 'any'"),
        (["--to=safetensors", "--batch=2", "--pixels"], "--batch, --pixels does not go with"),
    ],
)
def test_mistakes(flags, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export.run(["--model=tiny", f"--out={tmp_path / 'x'}", *flags])
