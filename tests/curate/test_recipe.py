"""Curation recipes resolve, and misfits are named."""

import dataclasses
import importlib
import pathlib

import pytest

from configs.curation import base, lvd, tiny
from dinov3_jax.config import ConfigError
from dinov3_jax.curate.recipe import CurationConfig, check_recipe, check_seeds, levels
from dinov3_jax.curate.stages import neighbours_of
from dinov3_jax.recipe import from_config_dict
from tests.curate.pools import recipe

FILES = sorted(
    path.stem
    for path in (pathlib.Path(__file__).parents[2] / "configs/curation").glob("*.py")
    if path.stem not in ("__init__", "base")
)


def resolve(config) -> CurationConfig:
    return from_config_dict(config, CurationConfig)


@pytest.mark.parametrize("file", FILES)
def test_every_recipe_resolves(file):
    config = resolve(importlib.import_module(f"configs.curation.{file}").get_config())
    assert config.name == file
    check_recipe(config, 2 * config.sample.budget + 2_000_000_000, "a large pool")


def test_lvd_has_the_five_levels_of_the_paper():
    config = resolve(lvd.get_config())
    clusters = [level.clusters * level.split for level in config.levels]
    assert clusters == [200_000_000, 8_000_000, 800_000, 100_000, 25_000]
    assert config.sample.budget == 1_689_000_000
    assert neighbours_of(config.retrieve, "imagenet1k") == 32
    assert neighbours_of(config.retrieve, "imagenet22k") == 4
    assert levels(config)[0].split == 100


def test_no_shards():
    config = tiny.get_config()
    config.pack = None
    assert resolve(config).pack is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["sample"].update({"buget": 3}),
            r"unknown key config.sample.buget; did you mean 'budget'",
        ),
        (
            lambda c: c.update({"levels": ({**base.level(3), "cluster": 4},)}),
            r"unknown key config.levels\[0\].cluster; did you mean 'clusters'",
        ),
        (lambda c: c.pop("seed"), "config lacks seed; start the recipe from"),
        (lambda c: c.update({"levels": (7,)}), r"config.levels\[0\] is 7, wanted a section"),
    ],
)
def test_keys_that_do_not_fit(change, message):
    config = tiny.get_config().to_dict()
    change(config)
    with pytest.raises(ConfigError, match=message):
        resolve(config)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("retrieve", {"level": 3}, "retrieve.level is 3, wanted 1 to 2"),
        ("retrieve", {"each": 0}, "retrieve.each is 0, wanted at least 1"),
        ("retrieve", {"neighbours_of": (("x", 0),)}, "neighbours_of x is 0, wanted at least 1"),
        ("dedup", {"threshold": 1.5}, "dedup.threshold is 1.5, wanted a cosine"),
        ("dedup", {"whiten": 0}, "dedup.whiten is 0, wanted at least 1"),
        ("dedup", {"neighbours": 0}, "dedup.neighbours is 0, wanted at least 1"),
        ("dedup", {"probes": 0}, "dedup.probes is 0, wanted at least 1"),
        ("retrieve", {"probes": 0}, "retrieve.probes is 0, wanted at least 1"),
        ("sample", {"budget": 0}, "sample.budget is 0, but there are 100 images"),
        ("pack", {"shard_size": 0}, "pack.shard_size is 0, wanted at least 1"),
        ("pack", {"quality": 101}, "pack.quality is 101, wanted 1..100"),
        ("pack", {"longest": 0}, "pack.longest is 0, wanted at least 1 pixel"),
    ],
)
def test_numbers_that_make_no_sense(section, changes, message):
    changed = dataclasses.replace(getattr(recipe(), section), **changes)
    check_recipe(recipe(), 100, "a pool")
    with pytest.raises(ConfigError, match=message):
        check_recipe(recipe(**{section: changed}), 100, "a pool")


def test_seed_sets_that_the_recipe_speaks_of():
    config = resolve(lvd.get_config())
    check_seeds(config, ("imagenet22k", "imagenet1k"))
    message = "speaks of imagenet1k, but the seed sets are in1k, x; give --seeds=imagenet1k=PATH"
    with pytest.raises(ConfigError, match=message):
        check_seeds(config, ("in1k", "x"))
    with pytest.raises(ConfigError, match="but the seed sets are none"):
        check_seeds(config, ())
