import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from configs import vit7b16_pretrain
from dinov3_jax import checkpoint
from dinov3_jax.config import ConfigError
from dinov3_jax.data.sources import open_source
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train import loop, workdir
from dinov3_jax.train.guard import TrainingError
from dinov3_jax.train.metrics import read_metrics
from dinov3_jax.train.state import init_state, state_shardings
from tests.data.benchmarks.folders import write_class_folders
from tests.train.runs import assert_equal_bits, final_state, tiny_config, write_images
from tests.train.saved import save_run, small_config

# What a run needs on the eight simulated devices of the test process.
EIGHT = {"mesh.fsdp": -1, "batch.images": 16, "batch.group": 2}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), classes=2)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """A run of 12 steps that nobody disturbed, in a process of its own."""
    workdir = tmp_path_factory.mktemp("finished")
    run = start(images, workdir)
    _, stderr = run.communicate(timeout=300)
    assert run.returncode == 0, stderr
    return workdir


def environment():
    """Of a process with one CPU device and no progress bar."""
    plain = {**os.environ, "JAX_PLATFORMS": "cpu", "TQDM_DISABLE": "1"}
    plain.pop("XLA_FLAGS", None)
    return plain


def start(images, workdir, *overrides, prefix=""):
    command = [sys.executable, "-m", "tests.train.runs", str(images), str(workdir), *overrides]
    return subprocess.Popen(
        ["bash", "-c", prefix + 'exec "$@"', "run", *command],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, run, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.01)


def test_a_run_leaves_what_it_promises(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints", "tensorboard", "report.html"} <= names
    rows = read_metrics(epath.Path(finished))
    assert [row["step"] for row in rows if "loss/total" in row] == list(range(1, 13))
    assert [row["step"] for row in rows if "health/rankme_cls" in row] == [0, 12]
    saves = [row for row in rows if "checkpoint/bytes" in row]
    assert [row["step"] for row in saves] == [4, 8, 12]
    for row in saves:
        folder = finished / "checkpoints" / str(row["step"])
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert row["checkpoint/bytes"] == sum(path.stat().st_size for path in files)
        seconds = row["checkpoint/blocked_seconds"] + row["checkpoint/background_seconds"]
        assert 0 < seconds < rows[-1]["time"] - rows[0]["time"]
    items = {path.name for path in (finished / "checkpoints" / "12").iterdir()}
    assert {"student", "teacher", "optimizer"} <= items  # a teacher loads alone


def test_killed_at_a_random_step_it_resumes_to_the_same_bits(images, finished, tmp_path):
    at = int(np.random.default_rng().integers(5, 12))  # after the first checkpoint, at step 4
    run = start(images, tmp_path)
    metrics = tmp_path / "metrics.jsonl"

    def reached():
        return metrics.exists() and f'"step": {at},' in metrics.read_text()

    wait_for(reached, run)
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stderr.close()
    again = start(images, tmp_path)
    assert again.wait(timeout=300) == 0, f"killed at {at}: " + again.stderr.read()
    again.stderr.close()
    config = tiny_config(images)
    assert_equal_bits(final_state(finished, config), final_state(tmp_path, config))
    steps = [row["step"] for row in read_metrics(epath.Path(tmp_path)) if "loss/total" in row]
    assert steps == list(range(1, 13)), f"killed at {at}"


def test_sigterm_saves_and_ends_well(images, tmp_path):
    run = start(images, tmp_path, "steps=100000", "checkpoint.every=100000")
    metrics = tmp_path / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"step": 3,' in metrics.read_text(), run)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=120) == 0, run.stderr.read()
    run.stderr.close()
    saved = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    last = read_metrics(epath.Path(tmp_path))[-1]["step"]
    assert saved == [last]
    assert not (tmp_path / "report.html").exists()  # the grace after SIGTERM is for the checkpoint


def test_a_full_disk_is_explained(images, tmp_path):
    # A limit on the size of one file stands in for the disk: writes fail half-way all the same.
    run = start(images, tmp_path, prefix="ulimit -f 8; ")
    _, stderr = run.communicate(timeout=300)
    assert run.returncode != 0
    assert "The last complete checkpoint is untouched; free space" in stderr


def test_a_save_that_fails_ends_the_run_at_the_next_step(images, tmp_path, monkeypatch):
    """Not at the next save, at step 8. From the save of step 4 on Orbax has an error to tell."""
    save, errors = ocp.CheckpointManager.save, []

    def starts(manager, step, **arguments):
        save(manager, step, **arguments)
        errors.append(OSError(f"No space left on device, step {step}"))

    def check(manager):
        if errors:
            raise errors[0]

    monkeypatch.setattr(ocp.CheckpointManager, "save", starts)
    monkeypatch.setattr(ocp.CheckpointManager, "check_for_errors", check)
    with pytest.raises(checkpoint.CheckpointError, match="No space left on device, step 4"):
        loop.train(tiny_config(images, **EIGHT), tmp_path)
    rows = [row["step"] for row in read_metrics(epath.Path(tmp_path)) if "loss/total" in row]
    assert rows == [1, 2, 3]  # step 5 is done; the metrics of two steps are still on the device


def test_old_checkpoints_go_but_for_every_so_many_steps(tmp_path):
    config = small_config(**{"checkpoint.keep": 1, "checkpoint.keep_every": 8})
    save_run(tmp_path, config, (4, 8, 12))
    assert checkpoint.complete_steps(tmp_path) == [8, 12]


def test_a_torn_newest_checkpoint_falls_back_loudly(images, finished, tmp_path, caplog):
    config = tiny_config(images)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    shapes = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))
    abstract = checkpoint.abstract(shapes, state_shardings(config, mesh))
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", str(finished), str(copy)], check=True)
    for path in (copy / "checkpoints" / "12" / "student").rglob("*"):
        if path.is_file() and "d/" in str(path):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with (
        caplog.at_level(logging.ERROR),
        checkpoint.open_checkpoints(copy, config.checkpoint) as manager,
    ):
        state = checkpoint.restore(manager, abstract)
    assert int(state.step) == 8
    assert "CHECKPOINT 12 CANNOT BE READ" in caplog.text
    for step in (4, 8):
        for path in (copy / "checkpoints" / str(step) / "student").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
    with (
        pytest.raises(checkpoint.CheckpointError, match=r"none of the checkpoints \[8, 4\]"),
        checkpoint.open_checkpoints(copy, config.checkpoint) as manager,
    ):
        checkpoint.restore(manager, abstract)


def claim(folder, config):
    workdir.claim(epath.Path(folder), config, open_source(config.data))


def test_a_workdir_of_another_recipe_is_refused(images, finished):
    with pytest.raises(ConfigError, match=r"optim\.beta2: 0\.999 there, 0\.5 now.*--workdir"):
        claim(finished, tiny_config(images, **{"optim.beta2": 0.5}))


def test_a_workdir_of_other_data_is_refused(finished, tmp_path):
    with pytest.raises(ConfigError, match=r"the listing of .* has changed"):
        claim(finished, tiny_config(write_images(tmp_path / "other", 9)))


def test_a_workdir_that_a_host_does_not_see_is_refused(images, tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "_sees", lambda path, text: False)
    with pytest.raises(ConfigError, match=r"process 0 cannot see .*config\.json.*all hosts share"):
        claim(tmp_path, tiny_config(images))


def test_logging_and_evaluation_may_change_between_starts(images, finished):
    changed = {"log.every": 3, "eval.every": 5, "checkpoint.keep": 2, "data.threads": 2}
    claim(finished, tiny_config(images, **changed))


def test_recomputation_may_change_between_starts(images, finished, tmp_path):
    """The losses of the first step from the checkpoint are those of the run that saved it."""
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    for step in (8, 12):
        shutil.rmtree(copy / "checkpoints" / str(step))
    run = start(images, copy, "student.remat='dots'", "student.remat_blocks=1")
    _, stderr = run.communicate(timeout=300)
    assert run.returncode == 0, stderr
    assert checkpoint.complete_steps(copy) == [4, 8, 12]
    got, wanted = (
        next(row for row in read_metrics(epath.Path(path)) if row["step"] == 5)
        for path in (copy, finished)
    )
    assert got["time"] > wanted["time"]
    for name in ("loss/dino_global", "loss/dino_local", "loss/ibot"):
        # Float32 in another order. Not KoLeo: it is the log of distances near 0 here.
        assert got[name] == pytest.approx(wanted[name], rel=1e-5)


def test_what_only_reorders_sums_may_change_between_starts(images, finished):
    """tests/train/test_step.py holds them against each other."""
    claim(finished, tiny_config(images, **{"batch.accumulate": 2, "student.attention": "xla"}))


def test_the_chips_of_the_7b_are_layouts_of_one_run():
    """A run saved on one kind of chip goes on, and its local saves count, on another."""
    source = types.SimpleNamespace(fingerprint="data")
    layouts = vit7b16_pretrain.LAYOUTS
    runs = {
        workdir.identity(from_config_dict(vit7b16_pretrain.get_config(f"chip={chip}")), source)
        for chip in layouts
    }
    assert len(layouts) == 4
    assert len(runs) == 1


def test_non_finite_steps_stop_the_run_and_leave_their_evidence(images, tmp_path):
    config = tiny_config(images, **EIGHT, **{"crops.std": (0.0, 0.0, 0.0)})
    with pytest.raises(TrainingError, match=r"3 steps in a row were not finite.*step 2"):
        loop.train(config, tmp_path)
    dump = json.loads((tmp_path / "nonfinite" / "step_2.json").read_text())
    assert len(dump["images"]) == 16
    assert dump["metrics"]["loss/total"] == "nan"
    assert {"loss/dino_global", "loss/ibot", "lr"} <= dump["metrics"].keys()


def test_a_few_bad_images_are_counted_and_too_many_stop_the_run(images, tmp_path, caplog):
    folder = write_images(tmp_path / "images", 10)
    for i in range(10):
        (folder / f"broken{i}.jpg").write_bytes(b"not an image")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(TrainingError, match="images could not be read"),
    ):
        loop.train(tiny_config(folder, **EIGHT), tmp_path / "run")
    assert "broken" in caplog.text
    generous = tiny_config(folder, **EIGHT, **{"data.max_bad_fraction": 0.9, "steps": 3})
    assert loop.train(generous, tmp_path / "generous")["step"] == 3


def test_a_mixture_counts_what_was_seen_of_each_source(images, tmp_path):
    sources = (
        ("many", "folder", str(images), 3.0),
        ("few", "folder", str(write_images(tmp_path / "few", 5)), 1.0),
    )
    mixture = {"data.mixture": sources, "data.homogeneous": (("few", 0.25),), "data.path": ""}
    loop.train(tiny_config("", **EIGHT, **mixture), tmp_path / "run")
    seen = [
        (row["step"], row["images_seen/many"], row["images_seen/few"])
        for row in read_metrics(epath.Path(tmp_path / "run"))
        if "images_seen/many" in row
    ]
    assert seen[-1][0] == 12
    assert all(many + few == 16 * step for step, many, few in seen)
    assert 0 < seen[-1][2] < seen[-1][1]


def test_evaluations_of_the_suite_are_rows(images, tmp_path):
    data = write_class_folders(tmp_path / "data", side=16)
    suite = {"eval.suite": (("knn", data, ("resize=16", "crop=16", "neighbours=1,3")),)}
    loop.train(tiny_config(images, **EIGHT, **suite, steps=2), tmp_path / "run")
    found = [row for row in read_metrics(epath.Path(tmp_path / "run")) if "eval/knn/top1" in row]
    assert [row["step"] for row in found] == [0, 2]
    assert all(0 <= row["eval/knn/top5_3"] <= 100 for row in found)
