"""Every stage at toy size, chained: started, killed, resumed to the same bits, learning."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from configs import base
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train.metrics import read_metrics
from tests.train.runs import tiny_recipe, write_images
from tests.train.test_loop import environment, wait_for

STEPS = 24


def recipe(folder, **overrides):
    """Learns within 24 steps: a high rate, sharp targets, no stochastic depth to blur the curve."""
    made = tiny_recipe(folder, **{"steps": STEPS, "student.drop_path": 0.0})
    made.optim.lr = base.schedule(5e-3)
    made.optim.freeze_last_layer = 0
    made.student.layerscale = None
    made.student.rope_rescale = None
    made.teacher.temperature = base.schedule(0.03)
    made.teacher.momentum = base.schedule(0.9)
    made.update_from_flattened_dict(overrides)
    return made


def pretraining(images, root):
    return recipe(images)


def gram(images, root):
    """Goes on with the step counter of the pretraining; the Gram teacher is refreshed once."""
    made = recipe(images, steps=2 * STEPS)
    made.init["from"], made.init.student, made.init.optimizer = str(root / "pre"), "student", True
    made.gram = base.gram()
    made.gram.source, made.gram.weight = str(root / "pre"), base.schedule(2.0)
    made.gram.refresh_every, made.gram.refresh_first, made.gram.refresh_count = 8, STEPS + 8, 1
    made.crops.gram_size, made.crops.gram_distortions = 32, False
    return made


def hires(images, root):
    made = recipe(images)
    made.init["from"] = made_from = str(root / "gram")
    made.gram = base.gram()
    made.gram.source, made.gram.weight = made_from, base.schedule(1.5)
    made.crops.mixture = ((16, 8, 24, 0.5), (24, 8, 32, 0.5))
    return made


def distillation(images, root):
    """One ConvNeXt student: 32-pixel crops are one patch of it and 16 of the teacher."""
    made = recipe(images)
    made.distill = base.distill(recipe(images))
    made.distill.source = str(root / "gram")
    made.student.arch = "convnext_tiny"
    made.student.embed_dim = made.student.depth = made.student.num_heads = None
    made.student.stage_depths, made.student.stage_dims = (1, 1, 1, 1), (8, 8, 16, 16)
    made.crops.global_size, made.crops.local_size = 64, 32
    return made


def students(images, root):
    """Two students of one teacher, of different width and rate."""
    made = {}
    for name, width, rate in (("narrow", 8, 5e-3), ("wide", 16, 3e-3)):
        student = recipe(images, **{"student.embed_dim": width})
        student.optim.lr = base.schedule(rate)
        student.distill = base.distill(recipe(images))
        student.distill.source = str(root / "gram")
        made[name] = student
    return made


STAGES = {
    "pre": pretraining,
    "gram": gram,
    "hires": hires,
    "distill": distillation,
    "students": students,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def images(root):
    return write_images(root / "images", 24, classes=2, size=64)


def launch(stage, root, workdir):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.train.test_stages", stage, str(root), str(workdir)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(workdir):
    return [row for row in read_metrics(epath.Path(workdir)) if "loss/total" in row]


@pytest.mark.parametrize("stage", STAGES)  # in this order: each takes what the one before left
def test_killed_resumed_and_finished_with_losses_that_fall(stage, images, root):
    workdir = root / stage
    lead = workdir / "narrow" if stage == "students" else workdir
    first = STEPS if stage == "gram" else 0
    run = launch(stage, root, workdir)
    reached = f'"step": {first + 10},'  # past the checkpoint at step 8
    metrics = lead / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and reached in metrics.read_text(), run)
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stderr.close()
    killed = {row["step"]: row["loss/total"] for row in rows(lead)}
    again = launch(stage, root, workdir)
    _, stderr = again.communicate(timeout=600)
    assert again.returncode == 0, stderr
    assert "resumed from step" in stderr
    for folder in (lead, workdir / "wide") if stage == "students" else (workdir,):
        made = rows(folder)
        assert [row["step"] for row in made] == list(range(first + 1, first + STEPS + 1))
        assert (folder / "report.html").exists()
        assert len(list((folder / "similarity").glob("*.png"))) == 2  # start and end
        # Patch losses and CLS losses both: the mean of the last quarter against the first.
        for term in ("loss/ibot", "loss/dino_local"):
            values = [row[term] for row in made]
            start, end = np.mean(values[: STEPS // 4]), np.mean(values[-STEPS // 4 :])
            assert end < start or stage in ("gram", "hires"), f"{folder.name} {term} {values}"
    # Steps made twice, before the kill and after it, are the same to the last bit.
    twice = {row["step"]: row["loss/total"] for row in rows(lead) if row["step"] in killed}
    assert twice == killed
    assert len(twice) >= 10


def test_gram_weight_and_loss_are_reported(images, root):
    for stage, weight in (("gram", 2.0), ("hires", 1.5)):
        made = rows(root / stage)
        assert {row["gram_weight"] for row in made} == {weight}
        assert all(row["loss/gram"] > 0 for row in made[1:])
    made = [row["loss/gram"] for row in rows(root / "gram")]
    assert np.mean(made[-6:]) < np.mean(made[:6])


def test_a_student_may_join_and_another_leave(images, root):
    """``narrow`` is done and left out; ``late`` joins ``wide`` and has all its steps before it."""
    made = students(images, root)
    late = made.pop("narrow")
    late.steps = 4
    workdir = root / "students"
    before = (workdir / "narrow" / "metrics.jsonl").read_text()
    run = launch("joined", root, workdir)
    _, stderr = run.communicate(timeout=600)
    assert run.returncode == 0, stderr
    assert (workdir / "narrow" / "metrics.jsonl").read_text() == before
    assert [row["step"] for row in rows(workdir / "late")] == [STEPS + i for i in (1, 2, 3, 4)]
    assert json.loads((workdir / "students.json").read_text())["late"] == STEPS


def joined(images, root):
    made = students(images, root)
    late = made.pop("narrow")
    late.steps = 4
    return {**made, "late": late}


if __name__ == "__main__":
    from pathlib import Path

    from dinov3_jax.cli import logs
    from dinov3_jax.train.loop import train, train_students

    logs.set_up()
    make = (STAGES | {"joined": joined})[sys.argv[1]]
    config = make(Path(sys.argv[2]) / "images", Path(sys.argv[2]))
    if isinstance(config, dict):
        train_students({k: from_config_dict(v) for k, v in config.items()}, sys.argv[3])
    else:
        train(from_config_dict(config), sys.argv[3])
