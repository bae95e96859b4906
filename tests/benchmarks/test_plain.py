"""The baseline of the train benchmark computes what the library computes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import plain
from benchmarks.synthetic import random_batch
from dinov3_jax.config import ConfigError
from dinov3_jax.models import build
from dinov3_jax.train.step import gradients, make_targets
from dinov3_jax.train.targets import teacher_outputs
from tests.tiny import CONVNEXT, tiny_batch, tiny_config, tiny_state

# float32 sums in another order, through two blocks; gradients are of order 1.
ROUNDING = 1e-4


def test_loss_and_gradients_are_those_of_the_library():
    """Without random numbers: the two draw them differently."""
    config = tiny_config(**{"student.rope_rescale": None})
    state, batch = tiny_state(config), tiny_batch(config)

    @functools.partial(jax.jit, static_argnums=1)
    def run(state, networks):
        keys = jax.random.split(jax.random.key(0), len(batch.mask_indices))
        outputs = teacher_outputs(state.teacher, batch, config=config, networks=networks)
        targets, _, _ = make_targets(
            state, batch, outputs, jnp.float32(0.07), config=config, networks=networks
        )
        return gradients(
            state.student, batch, targets, keys, state.step, config=config, networks=networks
        )

    ours, theirs = run(state, build.networks(config)), run(state, plain.plain_networks(config))
    scale = max(np.abs(x).max() for x in jax.tree.leaves(ours[0]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b, a, rtol=ROUNDING, atol=ROUNDING * scale),
        ours,
        theirs,
    )


def test_drop_path_keeps_the_expectation():
    got = plain.drop_path(jnp.ones((4000, 3, 2)), 0.25, jax.random.key(0))
    assert set(np.unique(got)) == {0.0, np.float32(4 / 3)}
    assert (got == got[:, :1, :1]).all()  # whole samples
    # Four standard deviations of a mean of 4000 draws: 4 sqrt(0.25 / 0.75 / 4000).
    assert float(got.mean()) == pytest.approx(1.0, abs=0.04)


def test_what_the_baseline_cannot_be():
    with pytest.raises(ConfigError, match="take --no-baseline"):
        plain.plain_networks(tiny_config(**CONVNEXT))


def test_synthetic_batches_are_those_of_the_data_pipeline():
    config = tiny_config()
    config = dataclasses.replace(config, crops=dataclasses.replace(config.crops, local_count=3))
    shapes = [
        jax.tree.map(lambda x: (x.shape, x.dtype), f(config)) for f in (random_batch, tiny_batch)
    ]
    assert shapes[0] == shapes[1]
