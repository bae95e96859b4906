"""Every recipe resolves, is what the golden says, and traces one step."""

import jax
import jax.numpy as jnp
import pytest

from dinov3_jax.config import TrainConfig, from_config_dict
from dinov3_jax.data.masking import masked_total
from dinov3_jax.models import build, presets
from dinov3_jax.train import state, step
from tests import regenerate


def test_there_are_recipes():
    assert "fashion_mnist_tiny" in regenerate.RECIPES


@pytest.mark.parametrize("name", regenerate.RECIPES)
def test_resolved_recipe_is_the_golden(name):
    """python -m tests.regenerate writes it again and prints what changed."""
    regenerate.check(f"configs/{name}.txt")


def test_no_golden_without_a_recipe():
    goldens = {path.stem for path in (regenerate.FOLDER / "configs").glob("*.txt")}
    assert goldens == set(regenerate.RECIPES)


def abstract_batch(config: TrainConfig) -> step.Batch:
    crops, batch = config.crops, config.batch
    patches = (crops.global_size // config.student.patch_size) ** 2
    groups = batch.images // batch.group
    masked = masked_total(
        crops=2 * batch.group,
        patches=patches,
        probability=config.ibot.mask_probability,
        ratio=config.ibot.mask_ratio,
    )
    shape = jax.ShapeDtypeStruct
    pixels = lambda n, side: shape(  # noqa: E731
        (batch.images, n, side, side, config.student.in_channels), jnp.float32
    )
    return step.Batch(
        pixels(2, crops.global_size),
        pixels(crops.local_count, crops.local_size),
        shape((batch.images, 2, patches), bool),
        shape((groups, masked), jnp.int32),
        shape((groups, masked), jnp.float32),
    )


@pytest.mark.parametrize("name", regenerate.RECIPES)
def test_one_step_traces(name):
    """The whole step on shapes alone: nothing is computed, a 7B fits."""
    config = from_config_dict(regenerate.recipe(name))
    networks = build.networks(config)
    before = jax.eval_shape(lambda: state.init_state(config, jax.random.key(0)))
    after, metrics = jax.eval_shape(
        lambda s, b, k: step.train_step(s, b, k, config=config, networks=networks),
        before, abstract_batch(config), jax.random.key(0),
    )  # fmt: skip
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), before
    )
    assert {x.dtype for x in metrics.values()} == {jnp.dtype("float32")}
    assert {x.shape for x in metrics.values()} == {()}


@pytest.mark.parametrize("name", regenerate.RECIPES)
def test_sizes_agree(name):
    config = from_config_dict(regenerate.recipe(name))
    patch = presets.complete(config.student).patch_size
    assert config.crops.global_size % patch == 0
    assert config.crops.local_size % patch == 0
    assert config.batch.images % (config.batch.group * config.batch.accumulate) == 0
    assert config.name == name
