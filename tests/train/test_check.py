import jax
import pytest

from dinov3_jax.config import ConfigError, MeshConfig
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train.check import SHARED, check_recipe, check_students
from tests import regenerate
from tests.tiny import CONVNEXT, tiny_config


def check(config, devices=1):
    check_recipe(
        config, make_mesh(MeshConfig(1, -1, 1, 1), jax.devices()[:devices]), platform="cpu"
    )


def test_the_tiny_recipe_is_fine():
    check(tiny_config())
    check(tiny_config(), devices=8)


@pytest.mark.parametrize("name", regenerate.RECIPES)
def test_recipes_are_fine_on_one_device(name):
    check(from_config_dict(regenerate.recipe(name)))


@pytest.mark.parametrize("koleo", [None, 1, 2, 8, 16])
def test_koleo_groups_that_fit(koleo):
    check(tiny_config(**{"koleo.group": koleo}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student.arch": "vit_huge"}, "student.arch is 'vit_huge'"),
        (
            {"student.attention": "pallas"},
            "'pallas', which exists for 'tpu' alone, and the devices",
        ),
        (
            {"distill.source": "x", "distill.backbone.attention": "cudnn"}
            | {"distill.backbone.dtype": "bfloat16"},
            "distill.backbone.attention is 'cudnn', which exists for 'gpu' alone",
        ),
        ({"crops.local_size": 10}, "crops.local_size is 10, not a multiple"),
        ({"batch.images": 17}, "17"),
        ({"koleo.group": 3}, "koleo.group is 3; it must divide batch.images 16"),
        ({"batch.group": 8, "koleo.topk": 8}, "koleo.topk is 8, wanted 1 to 7 in groups of 8"),
        ({"koleo.group": 4, "batch.accumulate": 2}, "would tear KoLeo groups apart"),
        ({"optim.lr_scaling": "cubic"}, "optim.lr_scaling is 'cubic'"),
        ({"teacher.centering": "mean"}, "teacher.centering is 'mean'"),
        ({"optim.lr.family": "v3"}, "optim.lr.family is 'v3', wanted 'v1' or 'v2'"),
        ({"optim.lr.warmup": 21}, "optim.lr.warmup is 21 steps, the run has 20"),
        ({"dino.local_weight.cosine": 0}, "dino.local_weight.cosine is 0 steps"),
        ({"teacher.temperature.end": 0.0}, "teacher.temperature must stay above 0"),
        ({"log.profile_start": 20}, "log.profile_start is 20, wanted below steps 20"),
        ({"checkpoint.every": 0}, "checkpoint.every is 0, wanted at least 1"),
        ({"init.student": "ema"}, "init.student is 'ema', wanted one of 'student', 'teacher'"),
        ({"init.optimizer": True, "init.student": "student"}, "but init.from names no run"),
        (
            {"init.from": "x", "init.optimizer": True},
            "needs init.student='student' and init.heads=True, not 'teacher' and True",
        ),
        (
            {
                "init.from": "x",
                "init.optimizer": True,
                "init.student": "student",
                "init.heads": False,
            },
            "not 'student' and False",
        ),
        ({"gram.teacher": "best"}, "gram.teacher is 'best', wanted one of 'checkpoint'"),
        ({"gram.level": "batch"}, "gram.level is 'batch'"),
        ({"gram.negatives": "drop"}, "gram.negatives is 'drop'"),
        ({"gram.tokens": "visible"}, "gram.tokens is 'visible'"),
        ({"gram.resize": "area"}, "gram.resize is 'area'"),
        ({"gram.tokens": "masked"}, "picks patches of a whole group: set gram.level=group"),
        ({"gram.load_step": 3}, "gram.teacher is 'checkpoint' and gram.load_step 3"),
        ({"gram.teacher": "ema_at_step"}, "gram.load_step None; 'ema_at_step' wants a step"),
        (
            {"gram.teacher": "ema_at_step", "gram.load_step": 20},
            "gram.load_step is 20, wanted 0 to 19",
        ),
        (
            {"gram.teacher": "ema", "gram.refresh_every": 5},
            "gram.teacher is 'ema', which is always fresh; set gram.refresh_every=None",
        ),
        ({"gram.refresh_every": 0}, "gram.refresh_every is 0, wanted at least 1 or None"),
        ({"gram.teacher": "ema", "gram.source": "x"}, "gram.teacher 'ema' reads no run"),
        ({"gram.weight.warmup": 21}, "gram.weight.warmup is 21 steps, the run has 20"),
        ({"gram.source": "x", "distill.source": "y"}, "gram and distill are both set"),
        ({"gram.source": "x", **CONVNEXT}, "gram is set for 'convnext_tiny'"),
        ({"crops.gram_size": 24}, "crops.gram_size is 24, but config.gram is None"),
        (
            {"distill.backbone.arch": "vit_huge"},
            "distill.backbone.arch is 'vit_huge', wanted one of",
        ),
        (
            {"distill.ibot_head.prototypes": 40},
            "ibot.head.prototypes is 24, the teacher's distill.ibot_head.prototypes 40",
        ),
        ({"dino.head.prototypes": 40, "distill.dino_head.prototypes": 32}, "dino.head.prototypes"),
    ],
)
def test_recipes_that_cannot_run(changes, message):
    with pytest.raises(ConfigError, match=message):
        check(tiny_config(**changes))


def test_a_batch_that_does_not_spread_over_the_devices():
    with pytest.raises(ConfigError, match="cannot be spread over 8 devices"):
        check(tiny_config(**{"batch.group": 4}), devices=8)


@pytest.mark.parametrize(
    "changes",
    [
        {"gram.source": "x"},
        {"gram.source": "x", "gram.level": "group", "gram.tokens": "masked"},
        {"gram.teacher": "ema_at_step", "gram.load_step": 0},
        {"gram.teacher": "ema"},
        {"gram.source": "x", "crops.gram_size": 24, "gram.refresh_every": 1},
        {"distill.source": "x", "distill.backbone.embed_dim": 32, "distill.dino_head.hidden": 8},
        {"distill.source": "x", **CONVNEXT},
        {"init.from": "x", "init.student": "student", "init.optimizer": True},
        {"init.from": "x", "init.heads": False, "optim.freeze_backbone": 5},
    ],
)
def test_later_stages_are_fine(changes):
    """Whether the runs they name are there is not looked at here."""
    check(tiny_config(**changes))


# For each thing that students share, a key of it and a value that differs from the tiny recipe's.
UNLIKE = {
    "seed": ("seed", 1),
    "batch": ("batch.images", 32),
    "data": ("data.path", "elsewhere"),
    "crops": ("crops.local_count", 3),
    "distill": ("distill.source", "another"),
    "mesh": ("mesh.replica", 2),
    "log": ("log.every", 3),
    "ibot.mask_probability": ("ibot.mask_probability", 0.25),
    "ibot.mask_ratio": ("ibot.mask_ratio", (0.2, 0.5)),
    "ibot.circular_shift": ("ibot.circular_shift", True),
    "ibot.head.prototypes": ("ibot.head.prototypes", 40),
    "dino.head.prototypes": ("dino.head.prototypes", 40),
    "student.stride": ("student.patch_size", 8),
    "checkpoint.every": ("checkpoint.every", 7),
}


def students(**changes):
    one = tiny_config(**{"distill.source": "x"})
    return {"one": one, "two": one, "three": tiny_config(**{"distill.source": "x", **changes})}


def test_every_shared_thing_is_tried():
    assert UNLIKE.keys() == set(SHARED)


@pytest.mark.parametrize("path", SHARED)
def test_what_students_must_share(path):
    key, value = UNLIKE[path]
    message = rf"^students share {path}, but it is .* in one and .* in three"
    with pytest.raises(ConfigError, match=message):
        check_students(students(**{key: value}))


def test_what_is_a_students_own():
    own = {
        "student.embed_dim": 24, "student.depth": 1, "student.dtype": "bfloat16", "steps": 7,
        "dino.head.hidden": 8, "koleo.weight": 0.2, "optim.lr.peak": 3.0, "name": "other",
        "teacher.temperature.peak": 0.05, "eval.every": 3, "checkpoint.keep": 1,
    }  # fmt: skip
    check_students(students(**own))


def test_several_students_need_a_frozen_teacher_and_one_does_not():
    with pytest.raises(ConfigError, match="several students need a frozen teacher: set distill"):
        check_students({"one": tiny_config(), "two": tiny_config()})
    check_students({"one": tiny_config()})
