import argparse

import pytest

from dinov3_jax.cli import convert, models
from dinov3_jax.convert.save import save
from tests.test_loading import CONFIGS, assert_same, make


def test_the_verb_and_the_two_flags_of_a_model(tmp_path, capsys):
    model = make(CONFIGS["swiglu"])
    save(model, tmp_path / "a.safetensors", "official")
    convert.run([str(tmp_path / "a.safetensors"), str(tmp_path / "b"), "--to=hf"])
    assert "tiny in the format hf" in capsys.readouterr().out
    parser = argparse.ArgumentParser()
    models.add_model_flags(parser)
    for line in (
        [f"--model={tmp_path / 'b'}"],
        [f"--model={tmp_path / 'b'}", f"--weights={tmp_path / 'a.safetensors'}"],
    ):
        assert_same(models.open_model(parser.parse_args(line)).params, model.params)
    with pytest.raises(SystemExit):
        convert.run(["a", "b", "--to=onnx"])
