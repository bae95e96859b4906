"""Gram anchoring inside a step: which teacher, when, on which patches."""

import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dinov3_jax.config import MeshConfig
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.losses.gram import gram_loss
from dinov3_jax.models import build
from dinov3_jax.train import gram, step
from dinov3_jax.train.groups import split_groups
from dinov3_jax.train.state import init_state
from tests.tiny import compile_step, place, tiny_batch, tiny_config, tiny_state

KEY = jax.random.key(7)
ROUNDING = 2e-6  # float32 cosines near 1, averaged
PROGRAM = 2e-5  # float32 in another program


def gram_config(**changes):
    return tiny_config(**{"gram.stats": False} | {f"gram.{k}": v for k, v in changes.items()}).gram


def updates(config, steps):
    """What the rule says, counted as the reference counts; numbers of steps done."""
    found = []
    for done in range(1, steps + 1):
        enough = config.refresh_count is not None and len(found) >= config.refresh_count
        if done >= config.refresh_first and done % config.refresh_every == 0 and not enough:
            found.append(done)
    return found


@pytest.mark.parametrize(
    ("every", "first", "count"),
    [(1, 0, None), (3, 0, None), (3, 0, 2), (4, 8, 2), (4, 9, 1), (5, 11, None), (7, 3, 0)],
)
def test_refreshed_at_the_right_steps(every, first, count):
    config = gram_config(refresh_every=every, refresh_first=first, refresh_count=count)

    def is_new(done):
        made = gram.refresh_gram_teacher({"w": 0.0}, {"w": 1.0}, done, config=config)
        return made["w"] == 1.0

    done = np.arange(1, 61)
    assert done[np.asarray(jax.vmap(is_new)(done))].tolist() == updates(config, 60)


def test_refreshes_of_the_published_anchoring():
    """After the steps 1,009,999, 1,019,999 and 1,029,999, counted from 0."""
    config = gram_config(refresh_every=10_000, refresh_first=1_010_000, refresh_count=3)
    refresh = lambda done: gram.refresh_gram_teacher(0, 1, done, config=config)  # noqa: E731
    last = np.arange(999_999, 1_060_000) + 1
    assert last[np.asarray(jax.vmap(refresh)(last), bool)].tolist() == [1010000, 1020000, 1030000]


@pytest.mark.parametrize("changes", [{}, {"teacher": "ema", "refresh_every": 1}])
def test_no_refresh_unless_asked(changes):
    config = gram_config(**changes)
    for done in range(4):
        assert gram.refresh_gram_teacher(0, 1, done, config=config) == 0


def test_loaded_before_one_step_alone():
    config = gram_config(teacher="ema_at_step", load_step=3)
    load = lambda step, config: gram.load_gram_teacher(0, 1, step, config=config)  # noqa: E731
    assert [int(load(i, config)) for i in range(6)] == [0, 0, 0, 1, 0, 0]
    other = dataclasses.replace(config, teacher="checkpoint")
    assert load(3, other) == 0


# One program for the life of a Gram teacher: loaded before step 1, refreshed after three steps.
LIFE = {
    "gram.teacher": "ema_at_step",
    "gram.load_step": 1,
    "gram.refresh_every": 3,
    "student.rope_rescale": 2.0,
    "student.drop_path": 0.4,
}


@functools.cache
def program(**changes):
    config = tiny_config(**LIFE, **changes)
    mesh = make_mesh(MeshConfig(1, 1, 1, 1), jax.devices()[:1])
    fn = compile_step(config, mesh)

    def call(state, batch):
        with jax.set_mesh(mesh):
            state, metrics = fn(*place(config, mesh, state, batch), KEY, None)
        return jax.tree.map(np.asarray, state), {k: float(v) for k, v in metrics.items()}

    return config, call


@functools.cache
def life():
    config, call = program()
    states, metrics = [tiny_state(config)], []
    for i in range(3):
        state, scalars = call(states[-1], tiny_batch(config, seed=i))
        states.append(state)
        metrics.append(scalars)
    return states, metrics


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def differ(a, b):
    return any(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x != y).any()), a, b)))


def test_life_of_a_gram_teacher():
    states, metrics = life()
    assert_same(states[1].gram_teacher, states[0].gram_teacher)
    assert differ(states[1].gram_teacher, states[1].teacher["backbone"])
    # Before step 1: the EMA teacher as step 0 left it, although step 1 moves the EMA on.
    assert_same(states[2].gram_teacher, states[1].teacher["backbone"])
    assert differ(states[2].gram_teacher, states[2].teacher["backbone"])
    # After three steps: the EMA teacher of that very step.
    assert_same(states[3].gram_teacher, states[3].teacher["backbone"])
    assert min(scalars["loss/gram"] for scalars in metrics) > 1e-4


def test_the_step_that_loads_already_uses_what_it_loads():
    config, call = program()
    states, metrics = life()
    other = jax.tree.map(lambda x: x + 1.0, states[1].gram_teacher)
    changed = dataclasses.replace(states[1], gram_teacher=other)
    after, scalars = call(changed, tiny_batch(config, seed=1))
    assert scalars == metrics[1]
    assert_same(after, states[2])
    # At step 2 nothing is loaded, and the same change is felt.
    changed = dataclasses.replace(states[2], gram_teacher=other)
    assert call(changed, tiny_batch(config, seed=2))[1]["loss/gram"] != metrics[2]["loss/gram"]


def test_a_step_that_is_not_finite_leaves_the_gram_teacher():
    """Even where a refresh is due. What was loaded before it stays: it is loaded only once."""
    config, call = program()
    states, _ = life()
    for before, wanted in (
        (states[0], states[0].gram_teacher),
        (states[1], states[1].teacher["backbone"]),
        (states[2], states[2].gram_teacher),
    ):
        batch = tiny_batch(config)
        pixels = batch.global_crops.at[3, 1, 2, 2, 0].set(jnp.nan)
        after, metrics = call(before, batch._replace(global_crops=pixels))
        assert np.isnan(metrics["loss/total"])
        assert_same(after.gram_teacher, wanted)
        assert_same(after.teacher, before.teacher)


def test_micro_batches_do_not_change_an_image_level_step():
    """tests/train/test_step.py has group level."""
    (_, metrics), (config, call) = life(), program(**{"batch.accumulate": 4})
    after, scalars = call(tiny_state(config), tiny_batch(config))
    assert scalars.keys() == metrics[0].keys()
    for name, value in metrics[0].items():
        # Float32 sums in another order, through a forward and a backward pass.
        assert scalars[name] == pytest.approx(value, rel=1e-4), name
    for ours, one in zip(*(jax.tree.leaves(s.opt_state.mu) for s in (after, life()[0][1]))):
        # After one step the first moment is 0.1 times the clipped gradient, of length 3 at most.
        np.testing.assert_allclose(ours, one, atol=PROGRAM, rtol=1e-3)


def test_ema_mode_uses_the_teachers_own_patches():
    config = tiny_config(**{"gram.teacher": "ema"})
    networks, batch, state = build.networks(config), tiny_batch(config), tiny_state(config)
    assert jax.eval_shape(lambda: init_state(config, KEY)).gram_teacher == {}
    assert state.gram_teacher == {}

    @jax.jit
    def targets(state, batch):
        outputs = step.teacher_outputs(state.teacher, batch, config=config, networks=networks)
        return step.make_targets(state, batch, outputs, 0.07, config=config, networks=networks)

    made, _, gram_teacher = targets(state, batch)
    backbone = nnx.merge(networks.backbone, state.teacher["backbone"])
    wanted = backbone(batch.global_crops.reshape(32, 16, 16, 3)).patch_tokens
    np.testing.assert_allclose(made.gram.reshape(32, 16, 16), wanted, atol=PROGRAM)
    assert gram_teacher == {}
    fn = functools.partial(step.train_step, config=config, networks=networks)
    after, metrics = jax.eval_shape(fn, state, batch, KEY)
    assert after.gram_teacher == {}
    assert {"loss/gram", "gram_weight"} <= metrics.keys()


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


STUDENT, TEACHER = draw(16, 2, 16, 5), draw(16, 2, 16, 7, seed=1)
BATCH = tiny_batch(tiny_config())


def by_hand(rows):
    """Mean over ``rows``: pairs of patches [P, D], [P, D'] that are compared with each other."""
    losses = []
    for pair in rows:
        a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in pair)
        losses.append(np.mean((a @ a.T - b @ b.T) ** 2))
    return np.mean(losses)


def chosen(tokens):
    """One pair a group of two images: boolean indexing instead of gathers."""
    masks = np.asarray(BATCH.masks)
    keep = {"all": np.ones_like(masks), "masked": masks, "unmasked": ~masks}[tokens]
    groups = [slice(i, i + 2) for i in range(0, 16, 2)]
    return [(STUDENT[g][keep[g]], TEACHER[g][keep[g]]) for g in groups]


@pytest.mark.parametrize("tokens", ["all", "masked", "unmasked"])
def test_group_level_compares_exactly_the_patches_asked_for(tokens):
    config = gram_config(level="group", tokens=tokens)
    terms = gram.gram_terms(STUDENT, TEACHER, BATCH, config=config)
    assert terms.keys() == {"loss/gram"}
    assert float(terms["loss/gram"]) == pytest.approx(by_hand(chosen(tokens)), abs=ROUNDING)


def test_image_level_compares_patches_of_a_crop():
    terms = gram.gram_terms(STUDENT, TEACHER, BATCH, config=gram_config())
    crops = zip(STUDENT.reshape(32, 16, 5), TEACHER.reshape(32, 16, 7))
    assert float(terms["loss/gram"]) == pytest.approx(by_hand(crops), abs=ROUNDING)


@pytest.mark.parametrize("level", ["image", "group"])
def test_stats_are_of_masked_and_unmasked_patches_at_either_level(level):
    config = gram_config(level=level, stats=True)

    def terms_of(student):
        return gram.gram_terms(student, TEACHER, BATCH, config=config)

    terms = terms_of(STUDENT)
    assert terms.keys() == {"loss/gram", "stats/gram_masked", "stats/gram_unmasked"}
    for tokens in ("masked", "unmasked"):
        got = float(terms[f"stats/gram_{tokens}"])
        assert got == pytest.approx(by_hand(chosen(tokens)), abs=ROUNDING)
        gradient = jax.grad(lambda x, t=tokens: terms_of(x)[f"stats/gram_{t}"])(STUDENT)
        assert not gradient.any()


@pytest.mark.parametrize("level", ["image", "group"])
def test_the_loss_is_the_mean_over_micro_batches(level):
    config = gram_config(level=level, stats=True)
    wanted = gram.gram_terms(STUDENT, TEACHER, BATCH, config=config)
    split = split_groups((STUDENT, TEACHER, BATCH), groups=8, parts=4)
    parts = [jax.tree.map(lambda x, i=i: x[i], split) for i in range(4)]
    made = [gram.gram_terms(*part, config=config) for part in parts]
    for name, value in wanted.items():
        got = np.mean([float(terms[name]) for terms in made])
        assert got == pytest.approx(float(value), abs=ROUNDING), name


@functools.cache
def targets_of(**changes):
    config = tiny_config(**{"gram.source": "", **changes})
    networks, state = build.networks(config), tiny_state(tiny_config(**{"gram.source": ""}))
    fn = jax.jit(functools.partial(gram.gram_targets, config=config, networks=networks))
    made = fn(state.gram_teacher, tiny_batch(config))
    return np.asarray(made), nnx.merge(networks.backbone, state.gram_teacher), tiny_batch(config)


def test_larger_gram_crops_come_out_on_the_students_grid():
    """OpenCV resizes 6 x 6 to 4 x 4 in the same way, without antialiasing."""
    got, backbone, batch = targets_of(**{"crops.gram_size": 24})
    tokens = np.asarray(backbone(batch.gram_crops.reshape(32, 24, 24, 3)).patch_tokens)
    grids = tokens.reshape(32, 6, 6, 16)
    wanted = [cv2.resize(grid, (4, 4), interpolation=cv2.INTER_CUBIC) for grid in grids]
    # Float32; OpenCV has float32 weights, too.
    np.testing.assert_allclose(got.reshape(32, 4, 4, 16), np.stack(wanted), atol=PROGRAM)


def test_resize_and_antialias_are_the_recipes():
    kinds = [{}, {"gram.resize": "bilinear"}, {"gram.antialias": True}]
    made = [targets_of(**{"crops.gram_size": 24, **kind})[0] for kind in kinds]
    assert min(np.abs(made[0] - made[1]).max(), np.abs(made[0] - made[2]).max()) > 0.01


def test_without_gram_crops_the_global_crops_serve_unmasked():
    got, backbone, batch = targets_of()
    assert batch.gram_crops is None
    wanted = backbone(batch.global_crops.reshape(32, 16, 16, 3)).patch_tokens
    np.testing.assert_allclose(got.reshape(32, 16, 16), wanted, atol=PROGRAM)


def test_micro_batches_keep_the_order_of_the_targets():
    sizes = {"crops.gram_size": 24}
    got, wanted = targets_of(**sizes, **{"batch.accumulate": 4})[0], targets_of(**sizes)[0]
    np.testing.assert_allclose(got, wanted, atol=PROGRAM)
    assert float(gram_loss(got[:8], wanted[8:])) > 0.01  # images differ
