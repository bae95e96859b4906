import jax
import pytest

from dinov3_jax.config import ConfigError, MeshConfig, from_config_dict
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.train.check import check_recipe
from tests import regenerate
from tests.tiny import tiny_config


def check(config, devices=1):
    check_recipe(config, make_mesh(MeshConfig(1, -1, 1), jax.devices()[:devices]))


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
    ],
)
def test_recipes_that_cannot_run(changes, message):
    with pytest.raises(ConfigError, match=message):
        check(tiny_config(**changes))


def test_a_batch_that_does_not_spread_over_the_devices():
    with pytest.raises(ConfigError, match="cannot be spread over 8 devices"):
        check(tiny_config(**{"batch.group": 4}), devices=8)
