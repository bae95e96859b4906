import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.evals.classification.knn import KnnSettings
from dinov3_jax.evals.settings import find, parse
from dinov3_jax.evals.suite import EVALUATIONS


def test_defaults_are_those_of_the_protocol():
    assert parse("knn", "folder", ()) == KnnSettings("folder")


def test_values_take_the_types_of_their_fields():
    assigned = ("neighbours=10,20", "temperature=1", "shots=None", "skip_first=True", "crop=28")
    assert parse("knn", "a=b", assigned) == KnnSettings(
        "a=b", neighbours=(10, 20), temperature=1.0, shots=None, skip_first=True, crop=28
    )
    assert parse("knn", "5", ("data=7",)).data == "5"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("crp=28", "unknown key knn.crp; did you mean 'crop'"),
        ("crop=large", r"knn.crop is 'large' \(str\), wanted int"),
        ("crop=2.5", r"knn.crop is 2.5 \(float\), wanted int"),
        ("neighbours=10", "knn.neighbours is 10, wanted"),
        ("crop", "'crop' of knn, wanted key=value"),
    ],
)
def test_errors(assignment, message):
    with pytest.raises(ConfigError, match=message):
        parse("knn", "folder", (assignment,))


def test_the_nearest_name_is_said():
    with pytest.raises(ConfigError, match="no evaluation 'knm'; did you mean 'knn'"):
        find("knm")


def test_a_label_tells_two_of_one_evaluation_apart():
    assert find("davis@480") is find("davis@a-B_9") is EVALUATIONS["davis"]
    assert parse("davis@480", "folder", ("short_side=480",)).short_side == 480
    with pytest.raises(ConfigError, match="no evaluation 'knm'; did you mean 'knn'"):
        find("knm@a")
    for label in ("", "a.b", "a/b", "a=b", "a@b", "ä"):
        with pytest.raises(ConfigError, match=f"the label is '{label}', wanted letters, digits"):
            find(f"knn@{label}")


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_evaluation_can_be_set_from_text(name):
    """Each default, written out, is read back as itself."""
    settings = parse(name, "folder", ())
    again = [f"{key}={value}" for key, value in vars(settings).items() if key != "data"]
    assert parse(name, "folder", again) == settings
    assert "\n" not in EVALUATIONS[name].about
