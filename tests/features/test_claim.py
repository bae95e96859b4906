import json
import os
import pathlib

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
    (tmp_path / "job.json.0123.new").write_text("{")
    claim(tmp_path, size=1)
    assert read_claim(tmp_path, "job.json") == {"size": 1}


def meanwhile(monkeypatch, owner, name, folder):
    """At the next call of ``owner.name`` another process claims ``folder`` and writes there."""
    real = getattr(owner, name)

    def late(*args):
        monkeypatch.setattr(owner, name, real)
        claim(folder, size=1)
        (folder / "result").touch()
        return real(*args)

    monkeypatch.setattr(owner, name, late)


@pytest.mark.parametrize(
    ("owner", "name"), [(pathlib.Path, "iterdir"), (pathlib.Path, "write_text"), (os, "replace")]
)
def test_two_processes_at_once(tmp_path, monkeypatch, owner, name):
    meanwhile(monkeypatch, owner, name, tmp_path)
    claim(tmp_path, size=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.json", "result"]


def test_two_processes_at_once_with_other_settings(tmp_path, monkeypatch):
    meanwhile(monkeypatch, pathlib.Path, "write_text", tmp_path)
    with pytest.raises(ConfigError, match="size: 1 there, 2 now"):
        claim(tmp_path, size=2)


def test_a_damaged_claim(tmp_path):
    (tmp_path / "job.json").write_text(json.dumps({"size": 1})[:-2])
    with pytest.raises(ConfigError, match=r"job.json is damaged \(.*\); take another folder"):
        claim(tmp_path, size=1)
