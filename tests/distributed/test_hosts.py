"""Real processes that meet on this machine; whole runs of them are marked ``hosts``."""

import json
import math
import re
import shutil
import signal
import time

import jax
import pytest
from etils import epath

from dinov3_jax import checkpoint
from dinov3_jax.config import ConfigError, MeshConfig
from dinov3_jax.distributed import hosts
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train import loop
from dinov3_jax.train.metrics import read_metrics
from dinov3_jax.train.state import init_state, state_shardings
from tests.data.benchmarks.folders import write_class_folders
from tests.data.benchmarks.masked import write_masked
from tests.distributed import launcher, tiny_recipe
from tests.evals.tiny_suite import tiny_suite
from tests.train.runs import assert_equal_bits, final_state, write_images
from tests.train.saved import save_run, small_config, state_at

# Another number of processes sums gradients in another order. The first gradients of this recipe
# are 1e8 (biases of 0 under a normalisation), so that float32 shows in the losses: 2e-6 of them.
SUMS = 1e-5

# Long enough that a signal after a few steps finds the run at work.
LONG = {"steps": 40, "checkpoint.every": 4, "checkpoint.keep": 20}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), classes=2)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """Two processes of four devices that nobody disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    command = launcher.train(images, folder / "run", **LONG)
    launcher.finish(command, folder, count=2, devices=4)
    return folder / "run"


def config(images, **changes):
    recipe = tiny_recipe.get_config(str(images))
    recipe.update_from_flattened_dict(changes)
    return from_config_dict(recipe)


def losses(workdir) -> dict[int, float]:
    rows = read_metrics(epath.Path(workdir))
    return {row["step"]: row["loss/total"] for row in rows if "loss/total" in row}


def wait_for_step(workdir, step, running, folder):
    end = time.monotonic() + 400
    while max(losses(workdir), default=0) < step:
        assert time.monotonic() < end, launcher.said(folder, 0)
        assert all(process.poll() is None for process in running), launcher.said(folder, 0)
        time.sleep(0.01)


def test_two_processes_divide_agree_evaluate_and_share_checkpoints(tmp_path):
    """What each of them asserts is in worker.py."""
    workdir = tmp_path / "run"
    write_class_folders(tmp_path / "labelled")
    write_masked(tmp_path / "masked", "own")
    save_run(workdir, small_config(), [1])
    command = ["tests.distributed.worker", str(workdir)]
    launcher.finish(command, tmp_path, count=2, devices=4)
    assert_equal_bits(final_state(workdir, small_config()), state_at(small_config(), 2))
    assert checkpoint.complete_steps(workdir) == [1, 2]
    assert (workdir / "unreadable_checkpoint_3").exists()


def test_a_process_that_never_comes_is_named(images, tmp_path):
    command = [*launcher.train(images, tmp_path / "run"), "--start_timeout=3"]
    with launcher.processes(command, tmp_path, count=3, devices=1, start=(0, 1)) as running:
        for index, process in enumerate(running):
            assert process.wait(timeout=120) == 2
            wanted = r"dinov3 train: process 2 of 3 did not call process 0 at .* within 3 s"
            assert re.search(wanted, launcher.said(tmp_path, index))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("10.0.0.1:1234", 2, None), "process index None: all three are needed, or none"),
        ((None, 2, 0), "coordinator None, process count 2, process index 0: all three"),
        (("10.0.0.1:1234", 2, 2), "process index is 2, wanted 0 to 1"),
        (("10.0.0.1", 2, 0), "coordinator is '10.0.0.1', wanted HOST:PORT"),
    ],
)
def test_arguments_that_say_too_little(given, message):
    with pytest.raises(ConfigError, match=message):
        hosts.join(*given, timeout=1)


def test_without_a_cluster_nothing_happens():
    hosts.join(timeout=1)
    assert jax.process_count() == 1


def test_a_slurm_step_is_found(monkeypatch):
    step = {"JOB_ID": "5", "STEP_NODELIST": "node[07-08]", "PROCID": "1", "LOCALID": "0"}
    for name, value in {**step, "NTASKS": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    called = {}

    def call(address, **process):
        called.update(process, address=address)
        raise hosts.rollcall.HostsError("far enough")

    monkeypatch.setattr(hosts.rollcall, "call", call)
    with pytest.raises(hosts.rollcall.HostsError, match="far enough"):
        hosts.join(timeout=7)
    assert called == {"address": "node07:61445", "index": 1, "count": 2, "timeout": 7}


@pytest.mark.hosts
@pytest.mark.parametrize(("count", "devices"), [(2, 4), (4, 2)])
def test_any_number_of_processes_trains_alike(images, tmp_path, count, devices):
    """Compared with one process of eight devices: losses, evaluations, what is left behind."""
    changes = {"steps": 10, "eval.source": "folder", "eval.bank": str(images)}
    changes["eval.queries"] = str(images)
    loop.train(config(images, **changes), tmp_path / "one")
    command = launcher.train(images, tmp_path / "many", **changes)
    launcher.finish(command, tmp_path, count=count, devices=devices)
    one, many = (losses(tmp_path / name) for name in ("one", "many"))
    assert list(many) == list(range(1, 11))
    assert many == pytest.approx(one, rel=SUMS)
    for name in ("eval/knn", "health/rankme_patch"):
        got, wanted = (
            [row[name] for row in read_metrics(epath.Path(tmp_path / run)) if name in row]
            for run in ("many", "one")
        )
        assert len(got) == 2
        assert got == pytest.approx(wanted, rel=1e-4)  # singular values, from features off by SUMS
    left = [{path.name for path in (tmp_path / run).iterdir()} for run in ("one", "many")]
    assert left[0] == left[1]
    assert len(list((tmp_path / "many" / "tensorboard").iterdir())) == 1  # one writer
    for index in range(1, count):
        assert " I " not in launcher.said(tmp_path, index).partition("devices\n")[2]


@pytest.mark.hosts
def test_every_evaluation_gives_two_processes_what_it_gives_one(tmp_path):
    (tmp_path / "suite.json").write_text(json.dumps(tiny_suite(tmp_path / "data")))
    command = ["tests.distributed.suite_worker", str(tmp_path / "suite.json")]
    launcher.finish(command, tmp_path, count=2, devices=4)


@pytest.mark.hosts
@pytest.mark.parametrize("asked", [0, 1])
def test_sigterm_to_one_saves_all_at_one_step(images, finished, tmp_path, asked):
    workdir = tmp_path / "run"
    never = {**LONG, "checkpoint.every": 1000}
    command = launcher.train(images, workdir, **never)
    with launcher.processes(command, tmp_path, count=2, devices=4) as running:
        wait_for_step(workdir, 3, running, tmp_path)
        running[asked].send_signal(signal.SIGTERM)
        for index, process in enumerate(running):
            assert process.wait(timeout=120) == 0, launcher.said(tmp_path, index)
            assert "stopping" in launcher.said(tmp_path, index)
    (saved,) = checkpoint.complete_steps(workdir)
    assert saved == max(losses(workdir)) < 40
    assert not (workdir / "report.html").exists()
    launcher.finish(command, tmp_path, count=2, devices=4)
    assert_equal_bits(final_state(workdir, config(images)), final_state(finished, config(images)))


@pytest.mark.hosts
@pytest.mark.parametrize("killed", [0, 1])
def test_sigkill_of_one_ends_the_other_and_the_rerun_resumes(images, finished, tmp_path, killed):
    workdir = tmp_path / "run"
    command = launcher.train(images, workdir, **LONG)
    with launcher.processes(command, tmp_path, count=2, devices=4) as running:
        wait_for_step(workdir, 6, running, tmp_path)
        running[killed].kill()
        began = time.monotonic()
        assert running[1 - killed].wait(timeout=120) != 0
        print(f"process {1 - killed} ended {time.monotonic() - began:.0f} s later")
    told = launcher.said(tmp_path, 1 - killed)
    assert "Terminating process because the JAX distributed service detected fatal errors" in told
    assert max(checkpoint.complete_steps(workdir)) >= 4
    launcher.finish(command, tmp_path, count=2, devices=4)
    assert_equal_bits(final_state(workdir, config(images)), final_state(finished, config(images)))
    assert list(losses(workdir)) == list(range(1, 41))


@pytest.mark.hosts
def test_a_checkpoint_moves_over_topologies(images, finished, tmp_path):
    """Two processes of four devices -> two of two -> one of one; losses go on alike."""
    wanted = losses(finished)
    before, at = finished, 12
    for count, devices in ((2, 2), (1, 1)):
        folder = tmp_path / f"{count}x{devices}"
        shutil.copytree(before, folder / "run")
        for step in checkpoint.complete_steps(folder / "run"):
            if step > at:
                shutil.rmtree(folder / "run" / "checkpoints" / str(step))
        command = launcher.train(images, folder / "run", **LONG)
        launcher.finish(command, folder, count=count, devices=devices)
        assert f"resumed from step {at}" in launcher.said(folder, 0)
        assert losses(folder / "run") == pytest.approx(wanted, rel=SUMS)
        before, at = folder / "run", at + 12


@pytest.mark.hosts
def test_a_checkpoint_has_the_same_bits_on_any_mesh(images, finished):
    """Written by two processes; restored on one to eight devices of one."""
    one = final_state(finished, config(images))
    shapes = jax.eval_shape(lambda: init_state(config(images), jax.random.key(0)))
    for sizes in ((1, 2, 1, 1), (2, 2, 1, 1), (1, 2, 2, 2)):
        mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
        abstract = checkpoint.abstract(shapes, state_shardings(config(images), mesh))
        with checkpoint.open_checkpoints(finished, config(images).checkpoint) as manager:
            assert_equal_bits(checkpoint.restore(manager, abstract), one)
