import dataclasses

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.data.record import Record, fingerprint
from dinov3_jax.data.shards import write_shards
from dinov3_jax.data.sources import SourceError, open_images, open_source


@pytest.fixture
def data(make_config, tmp_path):
    (tmp_path / "cat").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "cat" / "0.png")
    return dataclasses.replace(make_config().data, path=str(tmp_path))


def test_opens_a_folder(data):
    assert open_source(data).labels is None
    assert open_source(dataclasses.replace(data, labels="folders")).classes == ("cat",)


def test_opens_shards(data, tmp_path):
    write_shards([Record(np.zeros((4, 4, 3), np.uint8), "x", None)], str(tmp_path / "s"))
    assert len(open_source(dataclasses.replace(data, source="shards", path=f"{tmp_path}/s"))) == 1


def test_unknown_kind(data):
    with pytest.raises(ConfigError, match=r"data\.source is 'zip', wanted 'folder'"):
        open_source(dataclasses.replace(data, source="zip"))
    with pytest.raises(ConfigError, match=r"data\.labels is 'csv'"):
        open_source(dataclasses.replace(data, labels="csv"))


def test_fingerprint_separates_lines():
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert len(fingerprint([])) == 64


def test_images_by_path_alone(data, tmp_path):
    for name in ("dog/1.JPG", "dog/2.png", "dog/notes.txt", "3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = lambda path: list(open_images(path).files)  # noqa: E731
    assert found(str(tmp_path)) == ["3.png", "cat/0.png", "dog/1.JPG", "dog/2.png"]
    assert found(f"{tmp_path}/dog/*") == ["1.JPG", "2.png"]
    assert found(f"{tmp_path}/**/*.png") == ["3.png", "cat/0.png", "dog/2.png"]
    assert found(f"{tmp_path}/dog/2.png") == ["2.png"]
    record = Record(np.zeros((4, 4, 3), np.uint8), "x", None)
    write_shards([record], str(tmp_path / "shards"))
    assert open_images(str(tmp_path / "shards"))[0].id == "x"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("*.gif", r"no images match .*\*\.gif"),
        ("empty", "no images in .*empty"),
        ("nowhere", "there is no folder .*nowhere; correct the path"),
        ("notes.txt", "no images match .*notes.txt"),
    ],
)
def test_no_images_by_path(tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(SourceError, match=message):
        open_images(f"{tmp_path}/{path}")
