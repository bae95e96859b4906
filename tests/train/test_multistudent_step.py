"""Several students of one teacher: each makes the step that it would make alone."""

import functools

import jax
import numpy as np
import pytest

from dinov3_jax.models import build
from dinov3_jax.train import multistudent_step as multistudent
from dinov3_jax.train.check import check_students
from dinov3_jax.train.step import train_step
from tests.tiny import tiny_batch, tiny_config, tiny_frozen, tiny_state

KEY = jax.random.key(7)
SHARED = {"distill.backbone.embed_dim": 24}
CHANGES = {
    "narrow": {"student.drop_path": 0.4, "optim.freeze_last_layer": 3},
    "wide": {
        "student.embed_dim": 32,
        "student.depth": 1,
        "student.rope_rescale": 2.0,
        "dino.head.hidden": 16,
        "optim.lr.peak": 3e-3,
        "optim.beta2": 0.99,
        "teacher.temperature.peak": 0.05,
        "teacher.temperature.warmup": 0,
        "koleo.weight": 0.3,
    },
}
CONFIGS = {name: tiny_config(**SHARED, **changes) for name, changes in CHANGES.items()}
NETWORKS = {name: build.networks(config) for name, config in CONFIGS.items()}
BATCHES = [tiny_batch(CONFIGS["narrow"], seed=i) for i in range(2)]
FROZEN = tiny_frozen(CONFIGS["narrow"])


def starts():
    """One of them joined five steps later."""
    states = {name: tiny_state(config) for name, config in CONFIGS.items()}
    states["narrow"].step[...] = 5
    return states


STEP = functools.partial(multistudent.multistudent_step, configs=CONFIGS, networks=NETWORKS)
COMPILED = jax.jit(STEP)


@functools.cache
def together():
    states, rows = starts(), []
    for batch in BATCHES:
        states, metrics = COMPILED(states, batch, KEY, FROZEN)
        rows.append(metrics)
    return states, rows


@functools.cache
def alone(name):
    fn = jax.jit(functools.partial(train_step, config=CONFIGS[name], networks=NETWORKS[name]))
    state, rows = starts()[name], []
    for batch in BATCHES:
        state, metrics = fn(state, batch, KEY, FROZEN)
        rows.append(metrics)
    return state, rows


def test_they_can_share_a_run():
    check_students(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_makes_the_step_it_would_make_alone(name):
    (states, rows), (state, wanted) = together(), alone(name)
    for got, metrics in zip(rows, wanted):
        assert got[name].keys() == metrics.keys()
        for metric, value in metrics.items():
            # The same sums in float32, which another program may fuse otherwise.
            assert float(got[name][metric]) == pytest.approx(float(value), rel=2e-5), metric
    assert states[name].step == state.step
    start = starts()[name]
    for network in ("student", "teacher"):
        got, alike, before = (
            np.concatenate([x.ravel() for x in jax.tree.leaves(getattr(s, network))])
            for s in (states[name], state, start)
        )
        # Where a gradient is near 0, rounding decides the sign of Adam's step; the update as a
        # whole keeps three digits.
        assert np.linalg.norm(got - alike) < 2e-3 * np.linalg.norm(alike - before), network


def test_each_has_settings_of_its_own():
    """What the comparison above rests on: the students do differ."""
    _, (row, _) = together()
    narrow, wide = row["narrow"], row["wide"]
    assert float(wide["lr"]) == pytest.approx(3e-3)
    assert float(narrow["lr"]) == pytest.approx(1e-3)
    assert float(narrow["last_layer_lr"]) > 0  # step 5 of its own, beyond the 3 that are frozen
    assert float(wide["teacher_temperature"]) == pytest.approx(0.05)
    assert float(narrow["teacher_temperature"]) == pytest.approx(0.07)
    assert narrow["loss/dino_global"] != wide["loss/dino_global"]


def test_the_teacher_runs_once(monkeypatch):
    calls = []
    original = multistudent.teacher_outputs

    def counted(*arguments, **settings):
        calls.append(settings["config"])
        return original(*arguments, **settings)

    monkeypatch.setattr(multistudent, "teacher_outputs", counted)
    for module in ("step", "targets"):
        monkeypatch.setattr(f"dinov3_jax.train.{module}.teacher_outputs", counted)
    again = lambda *arguments: STEP(*arguments)  # noqa: E731  a function not yet traced
    jax.eval_shape(again, starts(), BATCHES[0], KEY, FROZEN)
    assert len(calls) == 1


def test_a_student_that_is_not_finite_does_not_touch_the_others():
    states = starts()
    states["wide"].student["backbone"]["patch_embed"]["bias"][...] = np.nan
    after, rows = COMPILED(states, BATCHES[0], KEY, FROZEN)
    assert np.isnan(rows["wide"]["loss/total"])
    wanted = alone("narrow")[1][0]["loss/total"]
    assert float(rows["narrow"]["loss/total"]) == pytest.approx(float(wanted), rel=2e-5)
    kernel = lambda tree: tree["narrow"].student["dino_head"]["fc1"]["kernel"]  # noqa: E731
    assert (np.asarray(kernel(after)) != kernel(starts())).any()
    jax.tree.map(np.testing.assert_array_equal, after["wide"].teacher, states["wide"].teacher)
