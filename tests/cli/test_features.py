"""``dinov3 features`` with a tiny model in place of the one that is named."""

import numpy as np
import pytest

from dinov3_jax.cli import features, sizes
from dinov3_jax.features.store import read_features
from tests.features.models import vit, write_images


@pytest.fixture(scope="module")
def model():
    return vit(patch_size=32)


@pytest.fixture
def verb(model, monkeypatch, tmp_path):
    monkeypatch.setattr(features, "open_model", lambda options: model)
    write_images(tmp_path / "images", 5, 64, 96)

    def verb(*flags):
        folders = [f"--images={tmp_path}/images", f"--out={tmp_path}/out"]
        features.run(["--model=tiny", *folders, *flags])
        return read_features(tmp_path / "out")

    return verb


def test_defaults(verb, capsys):
    paths, arrays = verb()
    assert len(paths) == 5
    assert {name: x.shape for name, x in arrays.items()} == {"cls": (5, 16)}
    said = capsys.readouterr().out
    assert "out: features of 5 images; 0 could not be read. Now: 5 images in" in said
    assert "92% of the computing filled up batches" in said  # 5 images, batches of 64


@pytest.mark.parametrize(
    ("flags", "shapes"),
    [
        (("--layers=2", "--size=64x32"), {"cls_0": (5, 16), "cls_1": (5, 16)}),
        (("--layers=1,", "--size=32"), {"cls_1": (5, 16)}),
        (
            ("--tokens=cls+patch", "--size=none", "--fit=crop", "--dtype=float16", "--format=npy"),
            {"cls": (5, 16), "patch_tokens": (5, 2, 3, 16)},
        ),
    ],
)
def test_flags(verb, capsys, flags, shapes):
    arrays = verb("--batch=8", "--part=5", *flags)[1]
    assert {name: x.shape for name, x in arrays.items()} == shapes
    assert "of the computing" not in capsys.readouterr().out
    wanted = np.float16 if "--dtype=float16" in flags else np.float32
    assert {x.dtype for x in arrays.values()} == {np.dtype(wanted)}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--size=huge", "'huge' is no size; wanted 256, 224x320 or none"),
        ("--layers=last", "'last' are no layers"),
        ("--tokens=registers", "invalid choice: 'registers'"),
    ],
)
def test_mistakes(verb, capsys, flag, message):
    with pytest.raises(SystemExit):
        verb(flag)
    assert message in capsys.readouterr().err


def test_sizes():
    assert [sizes.parse_size(text) for text in ("256", "224x320", "none")] == [
        256,
        (224, 320),
        None,
    ]
