import json

import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.features.claim import claim_folder, read_claim


def claim(folder, **settings):
    claim_folder(folder, "job.json", settings, holds="results", advice="set it back")


def test_the_same_settings_get_in_again(tmp_path):
    claim(tmp_path / "a/b", size=(1, 2), name="x")
    claim(tmp_path / "a/b", size=(1, 2), name="x")
    assert read_claim(tmp_path / "a/b", "job.json") == {"size": [1, 2], "name": "x"}


def test_others_do_not(tmp_path):
    claim(tmp_path, size=1, name="x")
    message = r"holds other results \(name: 'x' there, None now; size: 1 there, 2 now\); set it"
    with pytest.raises(ConfigError, match=message):
        claim(tmp_path, size=2)


def test_folders_of_something_else(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ConfigError, match="is there and holds no results; give a new or empty"):
        claim(tmp_path)
    with pytest.raises(ConfigError, match=r"photo.jpg is there and holds no results"):
        claim(tmp_path / "photo.jpg")


def test_a_job_that_was_killed_while_it_claimed(tmp_path):
    (tmp_path / "job.json.new").write_text("{")
    claim(tmp_path, size=1)
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


def test_a_damaged_claim(tmp_path):
    (tmp_path / "job.json").write_text(json.dumps({"size": 1})[:-2])
    with pytest.raises(ConfigError, match=r"job.json is damaged \(.*\); take another folder"):
        claim(tmp_path, size=1)
