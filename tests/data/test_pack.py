"""Packing without Beam: the function of one shard, and what a folder of them amounts to."""

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data import pack
from dinov3_jax.data.pack_beam import write_shards_on_beam
from dinov3_jax.data.record import SourceError
from dinov3_jax.data.shards import open_shards, verify_shards
from dinov3_jax.data.sources import open_kind


@pytest.fixture
def settings(source):
    return pack.Settings("folder", "none", source.fingerprint, len(source), 4, 0, None, None)


def pack_all(source, settings, folder):
    todo = pack.begin(settings, str(folder))
    for number in todo:
        pack.write_shard(source, settings, number, str(folder))
    return todo, pack.finish(settings, source.classes, str(folder))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_readable_image_once_in_a_new_order(source, settings, tmp_path):
    todo, manifest = pack_all(source, settings, tmp_path)
    assert todo == [0, 1, 2]
    assert (manifest["total"], manifest["packed"]["unreadable"]) == (10, 1)
    packed = open_shards(str(tmp_path))
    ids = [packed[i].id for i in range(len(packed))]
    assert sorted(ids) == [name for name in source.files if name != "04.jpg"]
    assert ids != sorted(ids)
    assert {packed[i].image for i in range(10)} <= {source[i].image for i in range(11)}
    verify_shards(str(tmp_path))


def test_what_stands_beside_a_shard(source, settings, tmp_path):
    pack_all(source, settings, tmp_path)
    beside = [pack.read_about(str(tmp_path), i) for i in range(3)]
    packed = open_shards(str(tmp_path))
    ids = [name for about in beside for name in about["records"]["id"]]
    assert ids == [packed[i].id for i in range(10)]
    (bad,) = [row for about in beside for row in about["unreadable"]]
    assert bad["id"] == "04.jpg"
    assert "unreadable image of 300 bytes" in bad["error"]
    heights = [h for about in beside for h in about["records"]["height"]]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    found = manifest["images"]["height"]
    assert (found["min"], found["max"]) == (min(heights), max(heights)) == (18, 38)
    assert found["mean"] == np.mean(heights)


@pytest.mark.parametrize(
    "change", [(b'"height": [', b'"height": [1'), (b'"id"', b'"ib"'), (b"}", b"")]
)
def test_a_changed_file_beside_a_shard_is_found_by_verify(source, settings, tmp_path, change):
    pack_all(source, settings, tmp_path)
    path = tmp_path / "00001.json"
    path.write_bytes(path.read_bytes().replace(*change))
    with pytest.raises(SourceError, match=r"00001\.json does not fit 00001\.array_record; copy it"):
        verify_shards(str(tmp_path))


def test_source_order_and_classes(folder, tmp_path):
    source = open_kind("folder", folder, labels="folders")
    settings = pack.Settings("folder", "folders", source.fingerprint, 11, 20, None, None, None)
    pack_all(source, settings, tmp_path)
    packed = open_shards(str(tmp_path))
    assert [packed[i].id for i in range(10)] == [n for n in source.files if n != "04.jpg"]
    assert packed.classes == source.classes
    assert packed.labels.tolist() == [0] * 10


def test_a_second_run_does_nothing(source, settings, tmp_path):
    pack_all(source, settings, tmp_path)
    assert pack.begin(settings, str(tmp_path)) == []


def test_a_killed_run_resumes_to_the_same_bytes(source, settings, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    pack_all(source, settings, whole)
    pack.begin(settings, str(killed))
    pack.write_shard(source, settings, 1, str(killed))
    (killed / ".00000.array_record.x.draft").write_bytes(b"half")  # of the shard under way
    (killed / "00002.array_record").write_bytes(b"without its .json")
    assert pack_all(source, settings, killed)[0] == [0, 2]
    assert contents(killed) == contents(whole)


def test_a_run_that_was_killed_at_its_very_start(source, settings, tmp_path):
    """A process that is shot while it writes pack.json; another one goes on."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    pack_all(source, settings, whole)
    code = f"""
import os, signal
from dinov3_jax.data import pack
os.replace = lambda draft, path: os.kill(os.getpid(), signal.SIGKILL)
pack.begin(pack.{settings}, {str(killed)!r})
"""
    died = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert [path.suffix for path in killed.iterdir()] == [".draft"]
    assert pack_all(source, settings, killed)[0] == [0, 1, 2]
    assert contents(killed) == contents(whole)


def test_a_deleted_shard_comes_back(source, settings, tmp_path):
    pack_all(source, settings, tmp_path)
    before = contents(tmp_path)
    (tmp_path / "00001.array_record").unlink()
    assert pack_all(source, settings, tmp_path)[0] == [1]
    assert contents(tmp_path) == before


def test_a_failure_leaves_no_shard(source, settings, tmp_path):
    class Broken:
        def __getitem__(self, index):
            raise SourceError("the disk is gone")

    pack.begin(settings, str(tmp_path))
    with pytest.raises(SourceError, match="the disk is gone"):
        pack.write_shard(Broken(), settings, 0, str(tmp_path))
    assert set(contents(tmp_path)) == {"pack.json"}


def test_a_file_system_that_fails_stops_the_run(source, settings, folder, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    pack_all(source, settings, whole)
    lost = pathlib.Path(folder, source.files[0])
    data = lost.read_bytes()
    lost.unlink()
    with pytest.raises(SourceError, match=r"record 0 cannot be read: .*No such file.*goes on"):
        pack_all(source, settings, stopped)
    lost.write_bytes(data)
    pack_all(source, settings, stopped)
    assert contents(stopped) == contents(whole)


def test_other_settings_are_refused_and_named(source, settings, tmp_path):
    pack_all(source, settings, tmp_path)
    other = dataclasses.replace(settings, shard_size=5, quality=80)
    with pytest.raises(ConfigError, match="shard_size 4, now 5, quality None, now 80; take these"):
        pack.begin(other, str(tmp_path))


def test_a_folder_with_other_things_is_refused(settings, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ConfigError, match="holds something that was not packed here"):
        pack.begin(settings, str(tmp_path))


def test_bad_settings(settings):
    with pytest.raises(ConfigError, match="shard size is 0"):
        dataclasses.replace(settings, shard_size=0)
    with pytest.raises(ConfigError, match="quality is 101"):
        dataclasses.replace(settings, quality=101)


def test_mostly_unreadable(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"{i}.jpg").write_bytes(b"no image")
    source = open_kind("folder", f"{tmp_path}/in", labels="none")
    settings = pack.Settings("folder", "none", source.fingerprint, 3, 2, 0, None, None)
    with pytest.raises(SourceError, match="3 of 3 images could not be read, more than half"):
        pack_all(source, settings, tmp_path / "out")


def test_without_beam(monkeypatch, settings, folder, tmp_path):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ConfigError, match=r"pip install 'dinov3_jax\[beam\]'"):
        write_shards_on_beam(settings, folder, str(tmp_path), [0], [])


@pytest.mark.beam
@pytest.mark.filterwarnings("ignore")  # Beam's own
@pytest.mark.parametrize("flags", [[], ["--direct_running_mode=multi_processing"]])
def test_beam_writes_the_same_bytes(source, settings, folder, tmp_path, flags):
    plain, beam = tmp_path / "plain", tmp_path / "beam"
    pack_all(source, settings, plain)
    todo = pack.begin(settings, str(beam))
    write_shards_on_beam(settings, folder, str(beam), todo, flags)
    pack.finish(settings, None, str(beam))
    assert contents(beam) == contents(plain)
