"""Runs that nobody ran: a config.json and checkpoints, for tests of what reads them."""

import dataclasses
import json

import jax
import numpy as np
from etils import epath

from dinov3_jax import checkpoint
from dinov3_jax.config import MeshConfig, TrainConfig
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.recipe import to_dict
from dinov3_jax.train.state import TrainState
from tests.tiny import tiny_config, tiny_state

MESH = make_mesh(MeshConfig(1, 1, 1, 1), jax.devices()[:1])

# One block and heads of one width: what is saved and read again is small.
SMALL = {"student.depth": 1, "student.storage_tokens": 0, "checkpoint.keep": 5}


def small_config(**changes) -> TrainConfig:
    return tiny_config(**{**SMALL, **changes})


def state_at(config: TrainConfig, step: int, *, seed: int = 0) -> TrainState:
    """Random parameters and moments, none of them equal to another."""
    rng = np.random.default_rng([seed, step])
    state = tiny_state(config, seed=seed + step)
    moments = lambda x: rng.uniform(size=x.shape).astype(np.float32)  # noqa: E731
    adam = state.opt_state
    adam = adam._replace(
        count=np.full_like(adam.count, step),
        mu=jax.tree.map(moments, adam.mu),
        nu=jax.tree.map(moments, adam.nu),
    )
    centers = jax.tree.map(moments, state.centers)
    return dataclasses.replace(
        state, opt_state=adam, centers=centers, step=np.full_like(state.step, step)
    )


def save_run(workdir, config: TrainConfig, steps, *, seed: int = 0, begin: int = 0) -> dict:
    """Checkpoints of its own ``steps``, numbered by a run in which it was at 0 at ``begin``.

    Returns the states by step.
    """
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    recipe = {"config": to_dict(config), "data": "none"}
    (workdir / "config.json").write_text(json.dumps(recipe))
    states = {step: state_at(config, step, seed=seed) for step in steps}
    with checkpoint.open_checkpoints(workdir, config.checkpoint) as manager:
        for step, state in states.items():
            checkpoint.save(manager, jax.tree.map(jax.numpy.asarray, state), begin + step)
    return states
