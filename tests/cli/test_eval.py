"""``dinov3 eval`` with a tiny model in place of the one that is named."""

import json

import pytest

from dinov3_jax.cli import eval as verb
from dinov3_jax.config import ConfigError
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.suite import EVALUATIONS
from tests.data.benchmarks.folders import write_class_folders
from tests.features.models import vit

SIZES = [f"--set={name}.{key}=8" for name in ("knn", "logistic") for key in ("resize", "crop")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("data"), train=4, test=2)


@pytest.fixture
def run(monkeypatch, tmp_path):
    model = vit()
    monkeypatch.setattr(verb, "open_model", lambda options: model)

    def run(*flags):
        verb.run(["--model=tiny", f"--out={tmp_path}/out", *flags])
        return json.loads((tmp_path / "out" / "results.json").read_text())

    return run


def test_several_evaluations_and_again(run, data, tmp_path, capsys):
    flags = [f"--data={data}", *SIZES[:2], "--set=knn.neighbours=3,5"]
    first = run("--eval=knn", *flags)
    assert first["knn"]["metrics"]["top1_3"] == 100.0
    assert "knn: top1 100 (" in capsys.readouterr().out
    flags += [*SIZES[2:], "--set=logistic.C=100,", f"--data=logistic={data}/"]
    again = run("--eval=knn,logistic", *flags)
    assert again["knn"] == first["knn"]
    assert again["logistic"]["settings"]["data"] == f"{data}/"
    said = capsys.readouterr().out
    assert f"knn: is in {tmp_path}/out" in said
    assert "logistic: top1 100 (" in said
    assert (tmp_path / "out" / "index.html").stat().st_size > 5000
    with pytest.raises(ConfigError, match=r"knn of another .*neighbours: \[3, 5\] there"):
        run("--eval=knn", f"--data={data}", *SIZES[:2])


def test_one_evaluation_twice_by_labels(run, data, tmp_path):
    sizes = [flag.replace("knn", f"knn@{label}") for flag in SIZES[:2] for label in ("few", "one")]
    entries = run(
        "--eval=knn@few,knn@one",
        f"--data={data}",
        f"--data=knn@one={data}/",
        *sizes,
        "--set=knn@few.neighbours=3,5",
        "--set=knn@one.neighbours=1,",
    )
    assert {name: entry["settings"]["neighbours"] for name, entry in entries.items()} == {
        "knn@few": [3, 5],
        "knn@one": [1],
    }
    assert entries["knn@one"]["settings"]["data"] == f"{data}/"
    page = (tmp_path / "out" / "index.html").read_text()
    assert "id='knn@few'" in page
    assert "id='knn@one'" in page


def test_bad_data_ends_with_the_name_of_the_evaluation(run):
    with pytest.raises(SourceError, match="knn: /nowhere has no splits"):
        run("--eval=knn", "--data=/nowhere", *SIZES[:2])


def test_what_an_evaluation_refuses_is_an_error_of_the_user(run, data):
    with pytest.raises(ConfigError, match="logistic: val has no image to choose"):
        run("--eval=logistic", f"--data={data}", *SIZES[2:], "--set=logistic.shots=1")


def test_a_mistake_of_ours_keeps_its_traceback(run, data, monkeypatch):
    def broken(model, settings, mesh):
        raise ValueError("shapes do not fit")

    monkeypatch.setitem(EVALUATIONS, "knn", EVALUATIONS["knn"]._replace(evaluate=broken))
    with pytest.raises(ValueError, match=r"^shapes do not fit$") as error:
        run("--eval=knn", f"--data={data}")
    assert error.type is ValueError


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval=knm", "--data=x"], "did you mean 'knn'"),
        (["--eval=knn", "--data=x", "--data=y"], "--data=x and --data=y are both for all"),
        (["--eval=knn", "--data=knn=x", "--data=knn=x"], "--data=knn=... is there twice"),
        (["--eval=knn,knn", "--data=x"], "--eval has knn twice; give each a label of its own"),
        (["--eval=knn@a", "--data=knn=x"], "--data=knn=... is for knn; --eval asks for knn@a"),
        (["--eval=knn", "--data=logistic=x"], "logistic=... is for logistic; --eval asks for knn"),
        (["--eval=knn,logistic", "--data=knn=x"], "logistic has no data"),
        (["--eval=knn", "--data=x", "--set=logistic.crop=8"], "is for logistic"),
        (["--eval=knn", "--data=x", "--set=crop"], "wanted --set=NAME.key=value"),
        (["--eval=knn", "--data=x", "--set=knn.crop=a"], "knn.crop is 'a'"),
    ],
)
def test_flags_that_make_no_sense(run, flags, message):
    with pytest.raises(ConfigError, match=message):
        run(*flags)


def test_a_path_may_hold_an_equals_sign(run):
    with pytest.raises(SourceError, match="a=b has no splits"):
        run("--eval=knn", "--data=a=b", *SIZES[:2])


def test_the_list(capsys):
    with pytest.raises(SystemExit) as end:
        verb.run(["--list"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    for name, evaluation in EVALUATIONS.items():
        assert f"{name:12} {evaluation.main}" in said
        assert evaluation.about in said
    assert "neighbours=(10,20,100,200) temperature=0.07" in said
