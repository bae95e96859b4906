import os
import subprocess
import sys

import pytest

from tests.train.runs import write_images


def dinov3(*arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TQDM_DISABLE": "1"}
    environment.pop("XLA_FLAGS", None)
    return subprocess.run(
        [sys.executable, "-m", "dinov3_jax", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_help_names_the_verbs_and_each_verb_explains_itself():
    result = dinov3("--help")
    assert result.returncode == 0
    assert "pretrain" in result.stdout
    assert "--data" in dinov3("pretrain", "--help").stdout
    train = dinov3("train", "--help").stdout
    assert "--workdir" in train
    assert "--coordinator" in train
    assert "WORKDIR" in dinov3("compare", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "usage: dinov3 VERB"),
        (["train", "--workdir=x"], "--config is missing"),
        (
            ["train", "--config=configs/fashion_mnist_tiny.py", "--workdir=x", "--config.stepz=3"],
            'Did you mean "steps"',
        ),
        (["train", "--config=configs/nothing.py", "--workdir=x"], "configs/nothing.py"),
        (["pretrain", "--data=no/such/folder", "--workdir=x"], "there is no folder"),
        (
            ["train", "--config=configs/fashion_mnist_tiny.py", "--workdir=x", "--process_count=2"],
            "all three are needed",
        ),
        (["compare", "no/such/run"], "no/such/run is no workdir of a run that was evaluated"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, message):
    result = dinov3(*arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_pretrain_chooses_prints_and_saves_a_recipe(tmp_path):
    images = write_images(tmp_path / "images", 40, classes=2, size=40)
    small = ["steps=3", "eval.every=3", "student.depth=1", "batch.images=8", "batch.group=8"]
    workdir = tmp_path / "run"
    result = dinov3(
        "pretrain",
        f"--data={images}",
        f"--workdir={workdir}",
        *(f"--config.{setting}" for setting in small),
    )
    assert result.returncode == 0, result.stderr
    assert "40 images, 1 cpu device(s), class folders found" in result.stderr
    assert "prototypes: 1024" in result.stderr
    assert '"depth": 1' in (workdir / "config.json").read_text()
    assert "eval/knn" in (workdir / "metrics.jsonl").read_text()
    assert (workdir / "report.html").stat().st_size > 10_000
