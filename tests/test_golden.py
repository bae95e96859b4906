"""Reference activations and trajectories; ``python -m tests.golden PATH.npz`` prints the errors."""

import pathlib

import pytest

from tests import golden

OURS = pathlib.Path(__file__).parent / "goldens"
SHARED = pathlib.Path(__file__).parents[2] / "shared" / "golden"


@pytest.mark.parametrize(
    "name", ["vit_mlp", "vit_swiglu_registers", "convnext", "pretrain", "gram", "distill"]
)
def test_replay(name, capsys):
    folder = OURS if (OURS / f"{name}.npz").exists() else SHARED
    path = folder / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no {name}.npz beside this repository (../shared/golden)")
    result = golden.replay(path)
    assert result.pop("ok"), capsys.readouterr().out
    # Every kind of number was compared.
    forward = name.startswith(("vit", "convnext"))
    trajectory = (
        golden.LIMITS.keys() - {"outputs"} - (set() if name == "gram" else {"gram_teacher"})
    )
    assert result.keys() - {"file"} == ({"outputs"} if forward else trajectory)


def test_limits_are_tight():
    """The agreement that the references promise in float32, parameters apart."""
    assert golden.LIMITS["outputs"] <= 1e-5
    assert golden.LIMITS["losses"] <= 2e-5
    assert golden.LIMITS["gradients"] <= 1e-4


def test_an_unknown_constructor_argument_is_an_error():
    with pytest.raises(ValueError, match="not understood: \\['swirl'\\]"):
        golden.forward_config({"embed_dim": 48, "swirl": 1})
