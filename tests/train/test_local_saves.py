"""States on a machine's own disk: the same bits, whole or not there, one step for all processes."""

import dataclasses
import logging
import re
import resource
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from dinov3_jax import checkpoint
from dinov3_jax.config import MeshConfig
from dinov3_jax.data.sources import open_source
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.train import local_saves, loop, students, workdir
from dinov3_jax.train.metrics import read_metrics
from dinov3_jax.train.state import init_state, state_shardings
from tests.tiny import tiny_config, tiny_state
from tests.train.runs import assert_equal_bits, final_state, tiny_config as run_config, write_images

CONFIG = tiny_config()
MESH = make_mesh(MeshConfig(2, 2, 2, 1))


def state_at(step, mesh=MESH):
    state = dataclasses.replace(tiny_state(CONFIG, seed=step), step=np.int32(step))
    return jax.tree.map(jax.device_put, state, state_shardings(CONFIG, mesh))


def abstract(mesh=MESH):
    shapes = jax.eval_shape(lambda: init_state(CONFIG, jax.random.key(0)))
    return checkpoint.abstract(shapes, state_shardings(CONFIG, mesh))


def test_the_newest_state_comes_back_bit_for_bit(tmp_path):
    for step in (3, 4, 5):
        local_saves.save(tmp_path, state_at(step), step)
    assert local_saves.steps(tmp_path) == [4, 5]
    got = local_saves.restore(tmp_path, abstract(), after=2)
    assert_equal_bits(got, state_at(5))
    wanted = jax.tree.map(lambda x: x.sharding, abstract())
    assert jax.tree.map(lambda x: x.sharding, got) == wanted


def test_what_two_devices_hold_is_written_once(tmp_path):
    """Two replicas, and vectors on all devices: the bytes of the state, once."""
    state = state_at(1)
    local_saves.save(tmp_path, state, 1)
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    with np.load(tmp_path / "1.npz") as saved:
        assert sum(saved[name].nbytes for name in saved.files) == whole


def test_one_that_is_not_newer_than_the_checkpoint_is_left_alone(tmp_path):
    local_saves.save(tmp_path, state_at(3), 3)
    assert local_saves.restore(tmp_path, abstract(), after=3) is None
    assert local_saves.restore(tmp_path / "none", abstract(), after=-1) is None


def test_a_flipped_byte_is_found_and_the_one_before_taken(tmp_path, caplog):
    for step in (3, 4):
        local_saves.save(tmp_path, state_at(step), step)
    path = tmp_path / "4.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    got = local_saves.restore(tmp_path, abstract(), after=0)
    assert int(got.step) == 3
    assert "4.npz is not used" in caplog.text


def test_other_shards_do_not_count(tmp_path, caplog):
    local_saves.save(tmp_path, state_at(3), 3)
    other = abstract(make_mesh(MeshConfig(1, 8, 1, 1)))
    assert local_saves.restore(tmp_path, other, after=0) is None
    assert "3.npz is not used" in caplog.text


def test_a_draft_does_not_count(tmp_path):
    local_saves.save(tmp_path, state_at(3), 3)
    (tmp_path / "draft").write_bytes((tmp_path / "3.npz").read_bytes()[:1000])
    assert local_saves.steps(tmp_path) == [3]


def test_a_full_disk_is_a_warning(tmp_path, caplog):
    """A limit on the size of a file stands in for the disk: the write fails half-way."""
    local_saves.save(tmp_path, state_at(3), 3)
    size = (tmp_path / "3.npz").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        written = local_saves.save(tmp_path, state_at(4), 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not written
    assert re.search(r"step 4 is not saved in .*free \d\.\d GB there.*local", caplog.text)
    assert [path.name for path in tmp_path.iterdir()] == ["3.npz"]
    assert local_saves.save(tmp_path, state_at(5), 5)
    assert local_saves.steps(tmp_path) == [3, 5]


def test_a_place_that_cannot_be_made_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    assert not local_saves.save(tmp_path / "file" / "0_of_1", state_at(3), 3)
    assert "step 3 is not saved" in caplog.text


def test_each_run_and_each_process_has_a_folder(tmp_path):
    settings = dataclasses.replace(CONFIG.checkpoint, local=str(tmp_path))
    one, two = (local_saves.folder(settings, "/runs/a", identity) for identity in ("x", "y"))
    assert one != two
    assert one != local_saves.folder(settings, "/runs/b", "x")
    assert one.name == "0_of_1"
    assert local_saves.folder(CONFIG.checkpoint, "/runs/a", "x") is None


def test_a_run_that_broke_goes_on_from_here_to_the_same_bits(tmp_path, monkeypatch, caplog):
    """It breaks after step 7, before any checkpoint."""
    images = write_images(tmp_path / "images", classes=2)
    eight = {"mesh.fsdp": -1, "batch.images": 16, "batch.group": 2}
    local = {"checkpoint.local": str(tmp_path / "local"), "checkpoint.local_every": 3}
    config = run_config(images, **eight, **local, **{"checkpoint.every": 20})
    undisturbed = dataclasses.replace(config.checkpoint, local=None)
    whole = dataclasses.replace(config, checkpoint=undisturbed)
    loop.train(whole, tmp_path / "whole")
    note = students.Student.note

    def breaks(self, step, *rest):
        note(self, step, *rest)
        if step == 6:
            raise RuntimeError("power is out")

    with monkeypatch.context() as patch:
        patch.setattr(students.Student, "note", breaks)
        with pytest.raises(RuntimeError, match="power is out"):
            loop.train(config, tmp_path / "broken")
    assert checkpoint.complete_steps(tmp_path / "broken") == []
    with caplog.at_level(logging.INFO):
        loop.train(config, tmp_path / "broken")
    assert "resumed from step 6, saved on this machine" in caplog.text
    assert_equal_bits(
        final_state(tmp_path / "broken", whole), final_state(tmp_path / "whole", whole)
    )
    rows = read_metrics(epath.Path(tmp_path / "broken"))
    assert [row["step"] for row in rows if "checkpoint/local_seconds" in row] == [3, 6, 9]
    assert [row["step"] for row in rows if "loss/total" in row] == list(range(1, 13))


def test_a_workdir_made_anew_does_not_find_it(tmp_path):
    """The folder of a run stays while its workdir does, and with another recipe is another."""
    config = run_config(
        write_images(tmp_path / "images", count=8),
        **{"checkpoint.local": str(tmp_path / "local"), "eval.health_images": 2},
    )
    source, run = open_source(config.data), epath.Path(tmp_path / "run")

    def place():
        plans, _ = students.prepare({"": config}, run, source)
        return plans[""].local

    first = place()
    assert place() == first
    shutil.rmtree(run)
    assert place() != first


def test_another_recipe_does_not_find_it(tmp_path):
    """Before the first checkpoint a recipe may still change: then the run starts afresh."""
    source = open_source(run_config(write_images(tmp_path, count=2)).data)
    one, other = (
        workdir.identity(run_config(tmp_path, **{"optim.beta1": beta}), source)
        for beta in (0.9, 0.8)
    )
    assert one != other
    free = run_config(tmp_path, **{"optim.beta1": 0.9, "log.every": 7, "data.threads": 3})
    assert workdir.identity(free, source) == one
