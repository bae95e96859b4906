import dataclasses

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.data.record import Record, fingerprint
from dinov3_jax.data.shards import write_shards
from dinov3_jax.data.sources import open_source


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
