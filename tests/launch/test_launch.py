"""The scripts that start a run on a cluster: linted, run dry, and with stand-ins for its tools."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.iterdir())
FLAGS = ["--config=configs/vitl16_im1k.py", "--config.data.path=/mnt/my shards"]


def run(script, *arguments, path=(), **variables):
    environment = {**os.environ, **variables}
    environment["PATH"] = ":".join([*map(str, path), environment["PATH"]])
    return subprocess.run(
        ["bash", LAUNCH / script, *arguments],
        env=environment, cwd=LAUNCH.parent, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def stand_in(folder, name, body):
    """A tool ``name`` that notes its arguments in ``folder/calls`` and does ``body``."""
    tool = folder / name
    tool.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> {folder}/calls\n{body}\n')
    tool.chmod(0o755)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="comes with pip install -e .[dev]")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    found = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_stop_at_errors_and_can_be_run(script):
    assert "set -euo pipefail" in script.read_text()
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    ("script", "variables", "wanted"),
    [
        (
            "tpu_queued_resources.sh",
            {"NFS": "10.0.0.2:/share", "ACCELERATOR": "v5litepod-256"},
            ["queued-resources create", "v5litepod-256", "tpu-vm scp", "tpu-vm ssh", "delete"],
        ),
        ("gke_xpk.sh", {"SLICES": "4", "PROJECT": "p"}, ["xpk workload create", "num-slices=4"]),
        ("slurm_gpu.sbatch", {"WORKDIR": "/w"}, ["srun --kill-on-bad-exit=1"]),
        ("until_done.sh", {"WORKDIR": "/w"}, ["dinov3 train --workdir=/w"]),
    ],
)
def test_dry_runs_print_the_commands(tmp_path, script, variables, wanted):
    for tool in ("gcloud", "xpk", "srun", "dinov3"):
        stand_in(tmp_path, tool, "exit 1")
    result = run(script, *FLAGS, path=[tmp_path], DRY_RUN="1", **variables)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "calls").exists()
    for text in wanted:
        assert text in result.stdout
    # What is printed would hand the flags on unharmed, also by way of a second shell.
    words = shlex.split(result.stdout)
    words += [inner for word in words if " " in word for inner in shlex.split(word)]
    assert set(FLAGS) <= set(words)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("touch -d +1sec $WORKDIR/report.html", 0),  # at its end
        ("true", 75),  # saved and stopped before
        ("exit 2", 2),  # a mistake in the recipe
    ],
)
def test_until_done_tells_a_stop_from_the_end(tmp_path, body, code):
    stand_in(tmp_path, "dinov3", body)
    (tmp_path / "report.html").write_text("of an earlier end")
    os.utime(tmp_path / "report.html", (1, 1))
    result = run("until_done.sh", *FLAGS, path=[tmp_path], WORKDIR=str(tmp_path))
    assert result.returncode == code, result.stderr


def test_until_done_hands_on_sigterm(tmp_path):
    stand_in(tmp_path, "dinov3", "trap 'echo saved >> $WORKDIR/calls; exit 0' TERM; "
             "touch $WORKDIR/started; while true; do sleep 0.1; done")  # fmt: skip
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = subprocess.Popen(
        ["bash", LAUNCH / "until_done.sh", *FLAGS],
        env={**environment, "WORKDIR": str(tmp_path)},
    )
    end = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    script.send_signal(signal.SIGTERM)
    assert script.wait(timeout=30) == 75
    assert "saved" in (tmp_path / "calls").read_text()


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (134, False)])
def test_slurm_puts_a_stopped_run_in_the_queue_again(tmp_path, code, requeued):
    stand_in(tmp_path, "srun", f"exit {code}")
    stand_in(tmp_path, "scontrol", "true")
    result = run("slurm_gpu.sbatch", *FLAGS, path=[tmp_path], SLURM_JOB_ID="7", WORKDIR="/w",
                 VENV=str(tmp_path))  # fmt: skip
    assert result.returncode == (0 if requeued else code)
    calls = (tmp_path / "calls").read_text()
    assert ("scontrol requeue 7" in calls) == requeued


# What gcloud says of the queued resource: nothing at first, then that it is there, then (after a
# preemption during the first training) that it is gone, and there again.
GCLOUD = """
case "$*" in
    *describe*) cat {0}/state 2>/dev/null || exit 1 ;;
    *create*) echo ACTIVE > {0}/state ;;
    *delete*) rm -f {0}/state ;;
    *until_done*) [[ -e {0}/second ]] || { touch {0}/second; echo {1} > {0}/state; exit 1; } ;;
esac
"""


@pytest.mark.parametrize(("state", "code", "created"), [("SUSPENDED", 0, 2), ("ACTIVE", 1, 1)])
def test_tpus_are_asked_for_again_after_a_preemption(tmp_path, state, code, created):
    body = GCLOUD.replace("{0}", str(tmp_path)).replace("{1}", state)
    stand_in(tmp_path, "gcloud", body)
    variables = {"NFS": "h:/share", "POLL": "0"}
    result = run("tpu_queued_resources.sh", *FLAGS, path=[tmp_path], **variables)
    assert result.returncode == code, result.stderr
    calls = (tmp_path / "calls").read_text()
    assert calls.count("queued-resources create") == created
    assert (tmp_path / "state").exists() == (code == 1)  # left as it is, or deleted


# What is accepted is active at the next look.
QUEUE = """
case "$*" in
    *describe*) cat {1} || exit 1; [[ $(< {1}) != ACCEPTED ]] || echo ACTIVE > {1} ;;
    *delete*) rm {1} ;;
    *queued-resources*create*) {0} ;;
esac
"""


@pytest.mark.parametrize(
    ("create", "begin", "created", "code", "told"),
    [
        ("exit 1", None, 1, 1, "gcloud refused to create dinov3"),  # no such zone, no quota
        ("echo FAILED > {1}", None, 3, 1, "no restart is left. dinov3 is FAILED"),
        ("exit 1", "ACCEPTED", 0, 0, ""),  # of an earlier call, still in the queue
    ],
)
def test_tpus_are_not_asked_for_for_ever(tmp_path, create, begin, created, code, told):
    if begin:
        (tmp_path / "state").write_text(begin)
    body = QUEUE.replace("{0}", create).replace("{1}", str(tmp_path / "state"))
    stand_in(tmp_path, "gcloud", body)
    variables = {"NFS": "h:/share", "POLL": "0", "RESTARTS": "2"}
    result = run("tpu_queued_resources.sh", *FLAGS, path=[tmp_path], **variables)
    assert result.returncode == code
    assert told in result.stderr
    calls = (tmp_path / "calls").read_text()
    assert calls.count("queued-resources create") == created
