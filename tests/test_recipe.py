import dataclasses

import pytest

from configs import base
from dinov3_jax import config as schema
from dinov3_jax.config import ConfigError, ScheduleConfig, TrainConfig
from dinov3_jax.recipe import from_config_dict, to_dict


def base_dict(**changes):
    """The base recipe as nested dicts, with dotted keys replaced."""
    recipe = base.get_config().to_dict()
    for path, value in changes.items():
        *parents, last = path.split(".")
        section = recipe
        for parent in parents:
            section = section[parent]
        section[last] = value
    return recipe


def test_base_recipe_freezes_whole():
    config = from_config_dict(base.get_config())
    assert isinstance(config, TrainConfig)
    assert isinstance(config.teacher.momentum, ScheduleConfig)
    assert config.crops.mean == (0.485, 0.456, 0.406)
    assert config.student.depth is None  # left to the preset
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3


def test_every_key_comes_back_unchanged():
    recipe = base.get_config().to_dict()
    assert to_dict(from_config_dict(recipe)) == recipe


def test_equal_recipes_are_equal_and_hashable():
    assert hash(from_config_dict(base.get_config())) == hash(from_config_dict(base.get_config()))


def test_no_field_has_a_default():
    classes = [c for c in vars(schema).values() if dataclasses.is_dataclass(c)]
    assert len(classes) > 10
    for cls in classes:
        for field in dataclasses.fields(cls):
            assert field.default is dataclasses.MISSING, f"{cls.__name__}.{field.name}"
            assert field.default_factory is dataclasses.MISSING, f"{cls.__name__}.{field.name}"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("optim.clipp", "clip"), ("studnet", "student"), ("dino.head.protoypes", "prototypes")],
)
def test_unknown_key_names_the_nearest(key, nearest):
    recipe = base_dict(**{key: 1})
    with pytest.raises(ConfigError, match=f"unknown key config.{key}; did you mean '{nearest}'"):
        from_config_dict(recipe)


def test_missing_keys_are_all_named():
    recipe = base_dict()
    del recipe["optim"]["clip"], recipe["optim"]["beta1"]
    with pytest.raises(ConfigError, match=r"config.optim lacks beta1, clip; .*configs/base.py"):
        from_config_dict(recipe)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("steps", "many", r"config.steps is 'many' \(str\), wanted int"),
        ("steps", True, r"config.steps is True \(bool\), wanted int"),
        ("steps", None, r"config.steps is None \(NoneType\), wanted int"),
        ("steps", 10.0, r"config.steps is 10.0 \(float\), wanted int"),
        ("student.depth", "two", r"config.student.depth is 'two' \(str\), wanted int"),
        ("optim.clip", "3", r"config.optim.clip is '3' \(str\), wanted float"),
        ("optim.beta1", True, r"config.optim.beta1 is True \(bool\), wanted float"),
        ("crops.horizontal_flip", 1, r"config.crops.horizontal_flip is 1 \(int\), wanted bool"),
        ("crops.mean", (0.5, 0.5), r"config.crops.mean is \(0.5, 0.5\), wanted 3 values"),
        ("crops.mean", 0.5, r"config.crops.mean is 0.5, wanted 3 values"),
        ("ibot.mask_ratio", (0.1, "x"), r"config.ibot.mask_ratio\[1\] is 'x' \(str\)"),
        ("optim.lr", 1e-3, r"config.optim.lr is 0.001, wanted a section"),
    ],
)
def test_wrong_type_says_what_was_got_and_wanted(key, value, wanted):
    with pytest.raises(ConfigError, match=wanted):
        from_config_dict(base_dict(**{key: value}))


def test_int_serves_as_float_and_list_as_tuple():
    config = from_config_dict(
        base_dict(**{"optim.clip": 3, "koleo.weight": 1, "ibot.mask_ratio": [0, 1]})
    )
    for value in (config.optim.clip, config.koleo.weight, *config.ibot.mask_ratio):
        assert type(value) is float
    assert config.ibot.mask_ratio == (0.0, 1.0)


def test_optional_keys_take_none():
    config = from_config_dict(base_dict(**{"optim.clip": None, "student.layerscale": None}))
    assert config.optim.clip is None
    assert config.student.layerscale is None


def test_a_section_alone_and_its_path():
    section = base.get_config().batch
    assert from_config_dict(section, schema.BatchConfig, "config.batch").images == 1024
    with pytest.raises(ConfigError, match=r"unknown key mine\.x"):
        from_config_dict({"x": 1}, schema.BatchConfig, "mine")


def test_a_section_without_keys():
    @dataclasses.dataclass(frozen=True)
    class Empty:
        pass

    with pytest.raises(ConfigError, match="the section takes no keys"):
        from_config_dict({"x": 1}, Empty)
