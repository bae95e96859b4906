import jax
import numpy as np
import pytest

from dinov3_jax.config import CompleteVitConfig, ConfigError, MeshConfig
from dinov3_jax.data.sources import SourceError
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.evals.evaluation import Result
from dinov3_jax.evals.settings import find, parse
from dinov3_jax.evals.suite import EVALUATIONS
from dinov3_jax.loading import load
from dinov3_jax.models import presets
from dinov3_jax.models.model import Model
from dinov3_jax.train.suite import check_suite, suite_row
from tests.data.benchmarks.folders import write_class_folders
from tests.tiny import tiny_config, tiny_state
from tests.train.saved import MESH, save_run

SIZES = ("resize=8", "crop=8", "neighbours=2,5")
ONE = "neighbours=1,"


def test_rows_are_what_dinov3_eval_measures_of_the_teacher(tmp_path):
    data = write_class_folders(tmp_path, train=4, test=2)
    config = tiny_config(**{"eval.suite": (("knn", data, SIZES), ("knn@1", data, (*SIZES, ONE)))})
    teacher = tiny_state(config).teacher
    sharded = make_mesh(MeshConfig(1, 8, 1, 1))
    with jax.set_mesh(sharded):  # as in the loop
        row = suite_row(config, teacher, sharded, first=True)
    model = Model("teacher", presets.complete(config.student), teacher["backbone"])
    alone = make_mesh(MeshConfig(1, 1, 1, 1), jax.devices()[:1])
    wanted = {}
    for name, assignments in (("knn", SIZES), ("knn@1", (*SIZES, ONE))):
        metrics = find(name).evaluate(model, parse(name, data, assignments), alone).metrics
        wanted |= {f"eval/{name}/{metric}": value for metric, value in metrics.items()}
    # Features differ by rounding only, far less than the classes do.
    assert row == wanted


def test_the_teacher_in_training_and_from_its_checkpoint_give_one_number(tmp_path, monkeypatch):
    """The recipe trains in bfloat16 and float8, with an attention that a CPU does not have."""

    def mean_of_cls(model, settings, mesh):
        images = np.linspace(-1, 1, 2 * 8 * 8 * 3, dtype=np.float32).reshape(2, 8, 8, 3)
        return Result({"top1": float(np.abs(model(images).cls).mean())})

    monkeypatch.setitem(EVALUATIONS, "knn", EVALUATIONS["knn"]._replace(evaluate=mean_of_cls))
    config = tiny_config(
        **{
            "student.dtype": "bfloat16",
            "student.attention": "pallas",
            "student.fp8": True,
            "eval.suite": (("knn", "x", ()),),
        }
    )
    states = save_run(tmp_path / "run", config, [1])
    row = suite_row(config, states[1].teacher, MESH, first=True)
    loaded = load(tmp_path / "run")
    assert isinstance(loaded.config, CompleteVitConfig)
    assert not loaded.config.fp8
    assert row == {"eval/knn/top1": mean_of_cls(loaded, None, MESH).metrics["top1"]}


def test_no_suite_is_no_row():
    config = tiny_config()
    assert suite_row(config, {"backbone": {}}, MESH, first=True) == {}


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ((("knm", "x", ()),), "did you mean 'knn'"),
        ((("knn", "x", ("crp=8",)),), r"knn\.crp; did you mean 'crop'"),
        ((("knn", "x", ()), ("knn", "y", ())), "eval.suite has knn twice; give each a label"),
        ((("knn@a/b", "x", ()),), "the label is 'a/b'"),
    ],
)
def test_what_cannot_run_is_said_at_the_start(suite, message):
    with pytest.raises(ConfigError, match=message):
        check_suite(tiny_config(**{"eval.suite": suite}))


def test_data_that_is_gone_later_is_a_warning(monkeypatch, caplog):
    def lost(model, settings, mesh):
        raise error

    def found(model, settings, mesh):
        return Result({"top1": 50.0})

    for name, evaluate in (("knn", lost), ("logistic", found)):
        monkeypatch.setitem(EVALUATIONS, name, EVALUATIONS[name]._replace(evaluate=evaluate))
    config = tiny_config(**{"eval.suite": (("knn", "x", ()), ("logistic", "x", ()))})
    for error in (SourceError("the disk is away"), OSError("the disk is away")):
        with pytest.raises(type(error), match="the disk is away"):
            suite_row(config, {"backbone": {}}, MESH, first=True)
        assert not caplog.records
        row = suite_row(config, {"backbone": {}}, MESH, first=False)
        assert row == {"eval/logistic/top1": 50.0}
        assert "evaluation knn is left out this time: the disk is away" in caplog.text
        with monkeypatch.context() as several:
            several.setattr("jax.process_count", lambda: 2)
            with pytest.raises(type(error), match="the disk is away"):
                suite_row(config, {"backbone": {}}, MESH, first=False)
        caplog.clear()


@pytest.mark.parametrize("name", ["linear@a", "imagenet", "attentive", "finetune"])
def test_what_trains_on_one_process_is_refused_on_several(monkeypatch, name):
    config = tiny_config(**{"eval.suite": (("knn", "x", ()), (name, "x", ()))})
    check_suite(config)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ConfigError, match=f"{name} of eval.suite trains on one process, here"):
        check_suite(config)


def test_diverged_weights_give_no_row(tmp_path):
    data = write_class_folders(tmp_path, train=2, test=1)
    config = tiny_config(**{"eval.suite": (("knn", data, SIZES),)})
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), tiny_state(config).teacher)
    with pytest.raises(ConfigError, match="not finite"):
        suite_row(config, broken, MESH, first=False)
