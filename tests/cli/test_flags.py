"""Recipe and flags of a command line, in this process."""

import pathlib

import pytest

from configs import base
from dinov3_jax.cli.flags import parse_recipe
from dinov3_jax.config import ConfigError
from dinov3_jax.recipe import from_config_dict

# How ml_collections imports a recipe.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = pathlib.Path(__file__).parents[2]
FILE = f"--config={ROOT / 'configs/photos_small.py'}"
STUDENTS = f"--config={ROOT / 'configs/multidistill_s_b_l.py'}"
WORKDIR = "--workdir=x"


def parse(*argv, **settings):
    return parse_recipe(list(argv), **settings)[0]


def test_recipe_and_workdir():
    recipe, workdir = parse_recipe([FILE, "--workdir=some/where"])
    assert recipe.name == "photos_small"
    assert workdir == "some/where"


def test_keys_may_come_before_the_recipe():
    recipe = parse("--config.steps=7", WORKDIR, "--config.optim.lr.peak=0.5", FILE)
    assert (recipe.steps, recipe.optim.lr.peak) == (7, 0.5)


def test_the_last_of_two_values_counts():
    assert parse(FILE, WORKDIR, "--config.steps=7", "--config.steps=8").steps == 8
    assert parse(FILE, WORKDIR, "--config.init.from=a", "--config.init.from=b").init["from"] == "b"


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("value", ["DIR", "gs://bucket/a=b", "None of these"])
def test_the_key_called_from(order, value):
    recipe = parse(*[FILE, WORKDIR, f"--config.init.from={value}"][::order])
    assert from_config_dict(recipe).init.from_ == value


def test_arguments_of_a_recipe_reach_it():
    assert parse(f"{FILE}:data=FOLDER", WORKDIR).data.path.startswith("FOLDER/")


def test_none_where_a_key_may_be_none():
    recipe = parse(FILE, WORKDIR, "--config.optim.clip=None", "--config.student.layerscale=None")
    config = from_config_dict(recipe)
    assert config.optim.clip is None
    assert config.student.layerscale is None
    with pytest.raises(ConfigError, match=r"config\.steps is None.*wanted int"):
        from_config_dict(parse(FILE, WORKDIR, "--config.steps=None"))


def test_a_number_after_none():
    recipe = parse(FILE, WORKDIR, "--config.student.embed_dim=96", "--config.log.profile_start=5")
    assert (recipe.student.embed_dim, recipe.log.profile_start) == (96, 5)


def test_keys_of_students():
    recipe = parse(
        STUDENTS,
        WORKDIR,
        "--config.students.vits.optim.lr.end=0.25",
        "--config.students.vitb.init.from=DIR",
        "--config.students.vitl.optim.clip=None",
    )
    students = {k: from_config_dict(v) for k, v in recipe.students.to_dict().items()}
    assert students["vits"].optim.lr.end == 0.25
    assert students["vitb"].optim.lr.end != 0.25
    assert [students[k].init.from_ for k in ("vits", "vitb", "vitl")] == ["", "DIR", ""]
    assert students["vitl"].optim.clip is None
    assert students["vits"].optim.clip is not None


@pytest.mark.parametrize(
    ("flag", "read", "value"),
    [
        ("batch.images=960", lambda c: c.batch.images, 960),
        ("distill.source=DIR", lambda c: c.distill.source, "DIR"),
        ("log.profile_start=5", lambda c: c.log.profile_start, 5),
        ("data.path=None", lambda c: c.data.path, None),
    ],
)
def test_what_students_share_is_set_once(flag, read, value):
    """None takes another way through the parser than other values."""
    recipe = parse(STUDENTS, WORKDIR, f"--config.{flag}")
    found = [read(student) for student in recipe.students.values()]
    assert found == [value] * 4


def test_a_recipe_that_is_there_already():
    recipe = base.get_config()
    made = parse(WORKDIR, "--config.steps=7", "--config.init.from=DIR", recipe=recipe)
    assert (made.steps, made.init["from"]) == (7, "DIR")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([FILE], "--workdir is missing"),
        ([WORKDIR], "--config is missing"),
        ([WORKDIR, "--config=no/such/file.py"], "no/such/file.py"),
        ([FILE, WORKDIR, "--config.stepz=3"], 'Did you mean "steps"'),
        ([FILE, WORKDIR, "--config.steps=many"], "many"),
        ([FILE, WORKDIR, "--config.optim.lr=1"], "it is a section: set one of its keys"),
        ([FILE, WORKDIR, "--config.init.fron=DIR"], 'Did you mean "from"'),
        ([FILE, WORKDIR, "--config.inti.from=DIR"], r'config\.inti\.from: .*Did you mean "init"'),
        ([FILE, WORKDIR, "--config.from=DIR"], r"config\.from: "),
        ([FILE, WORKDIR, "--config.optim.klip=None"], r'config\.optim\.klip: .*"clip"'),
        ([FILE, WORKDIR, "--config.steps.from=DIR"], r"config\.steps\.from: "),
        ([FILE, WORKDIR, "steps=3"], r"arguments \['steps=3'\] are not understood"),
        ([FILE, WORKDIR, "--steps=3"], "steps"),
    ],
)
def test_mistakes(argv, message):
    with pytest.raises(ConfigError, match=message):
        parse(*argv)
