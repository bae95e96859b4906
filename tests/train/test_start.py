"""Where a run starts: what it asks of other runs, and what it takes from them."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from dinov3_jax import checkpoint
from dinov3_jax.config import ConfigError
from dinov3_jax.train.start import Origin, Sources, find_sources, load_frozen, start
from dinov3_jax.train.state import create_state, init_state, state_shardings
from dinov3_jax.train.workdir import write_begins
from tests.tiny import tiny_config
from tests.train.saved import MESH, SMALL, save_run, small_config

NONE = Sources(None, None, None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(workdir, states) of a finished run of 20 steps with the checkpoints 10 and 20."""
    workdir = tmp_path_factory.mktemp("finished")
    return str(workdir), save_run(workdir, small_config(), (10, 20))


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unfinished")
    save_run(workdir, small_config(), (10,))
    return str(workdir)


def wants(kind, workdir, **changes):
    """A recipe that takes something from ``workdir``."""
    key = {"init": "init.from", "gram": "gram.source", "distill": "distill.source"}[kind]
    teacher = {f"distill.{k.replace('student', 'backbone')}": v for k, v in SMALL.items()}
    teacher = {k: v for k, v in teacher.items() if "backbone" in k} if kind == "distill" else {}
    return small_config(**{key: workdir, **teacher, **changes})


KINDS = pytest.mark.parametrize("kind", ["init", "gram", "distill"])


@KINDS
def test_the_last_step_of_a_finished_run_is_found(saved, kind):
    found = find_sources(wants(kind, saved[0]), resuming=False)
    assert found == NONE._replace(**{kind: Origin(saved[0], 20)})


@KINDS
def test_a_step_can_be_named(saved, unfinished, kind):
    for workdir in (saved[0], unfinished):
        config = wants(kind, workdir, **{f"{kind}.step": 10})
        assert getattr(find_sources(config, resuming=False), kind) == Origin(workdir, 10)


def test_a_recipe_without_sources_has_none():
    assert find_sources(small_config(), resuming=False) == NONE
    assert find_sources(small_config(**{"gram.teacher": "ema"}), resuming=False) == NONE


@pytest.mark.parametrize(("kind", "read"), [("init", False), ("gram", False), ("distill", True)])
def test_on_resume_only_a_frozen_teacher_is_read(tmp_path, kind, read):
    config = wants(kind, str(tmp_path / "gone"))
    if read:
        with pytest.raises(ConfigError, match="is no workdir"):
            find_sources(config, resuming=True)
    else:
        assert find_sources(config, resuming=True) == NONE


def refused(config, message):
    with pytest.raises(ConfigError, match=message):
        find_sources(config, resuming=False)


@KINDS
def test_no_workdir(tmp_path, kind):
    key = re.escape("init.from" if kind == "init" else f"{kind}.source")
    refused(wants(kind, str(tmp_path / "none")), rf"{key} '.*none' is no workdir of a run")
    (tmp_path / "config.json").write_text("{}")
    refused(wants(kind, str(tmp_path)), "no config.json with a complete checkpoint in it")


@KINDS
def test_an_unfinished_run(unfinished, kind):
    refused(
        wants(kind, unfinished),
        rf"is an unfinished run: step 10 of 20. Let it finish.*--config\.{kind}\.step=10",
    )


@KINDS
def test_a_step_that_is_not_there(saved, kind):
    refused(
        wants(kind, saved[0], **{f"{kind}.step": 15}),
        rf"{kind}\.step is 15, but '.*' has the checkpoints \[10, 20\]",
    )


@KINDS
def test_other_networks_are_named_key_by_key(saved, kind):
    section = "distill.backbone" if kind == "distill" else "student"
    config = wants(kind, saved[0], **{f"{section}.embed_dim": 24, f"{section}.norm": "rmsnorm"})
    refused(config, "has other networks: student.embed_dim 16 there, 24 here; .*student.norm")


def test_another_kind_of_network_is_refused(saved):
    sizes = {"student.embed_dim": None, "student.depth": None, "student.num_heads": None}
    config = wants("init", saved[0], **{"student.arch": "convnext_tiny", **sizes})
    refused(config, r"has other networks: .*student.stage_depths None there, \(3, 3, 9, 3\) here")


@pytest.mark.parametrize("kind", ["init", "distill"])
def test_other_heads_are_named(saved, kind):
    key = "ibot.head.prototypes" if kind == "init" else "distill.ibot_head.prototypes"
    config = wants(kind, saved[0], **{key: 40})
    refused(config, "other networks: ibot.head.prototypes 24 there, 40 here$")
    if kind == "init":  # heads that are not taken may differ
        fresh = wants(kind, saved[0], **{key: 40, "init.heads": False})
        assert find_sources(fresh, resuming=False).init == Origin(saved[0], 20)


def test_heads_of_a_gram_teacher_do_not_matter(saved):
    config = wants("gram", saved[0], **{"dino.head.prototypes": 40})
    assert find_sources(config, resuming=False).gram == Origin(saved[0], 20)


def test_settings_of_training_alone_may_differ(saved):
    other = {"drop_path": 0.3, "rope_shift": 0.2, "dtype": "bfloat16", "remat": "full",
             "remat_blocks": 1, "attention": "xla", "fp8": True}  # fmt: skip
    config = wants("init", saved[0], **{f"student.{key}": value for key, value in other.items()})
    assert find_sources(config, resuming=False).init == Origin(saved[0], 20)


def test_empty_sources():
    refused(small_config(**{"gram.source": ""}), "gram.source names no run; set gram.source to")
    refused(small_config(**{"distill.source": ""}), "distill.source names no run; set it to")


def test_a_student_that_joined_late_is_finished_by_its_own_steps(tmp_path):
    """Its checkpoints are numbered by the run: 12 to 32 where it began at step 12."""
    config = small_config()
    for name, own in (("late", 10), ("done", 20)):
        save_run(tmp_path / name, config, (own,), begin=12)
    write_begins(tmp_path, {"late": 12, "done": 12})
    refused(
        wants("init", str(tmp_path / "late")),
        r"unfinished run: step 10 of 20.*--config.init.step=22",
    )
    found = find_sources(wants("init", str(tmp_path / "done")), resuming=False)
    assert found.init == Origin(str(tmp_path / "done"), 32)


def started(config, tmp_path, sources):
    with checkpoint.open_checkpoints(tmp_path, config.checkpoint) as manager:
        return jax.tree.map(np.asarray, start(config, MESH, manager, sources))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_fresh_moments(state):
    assert state.step == 0
    assert state.opt_state.count == 0
    assert not any(x.any() for x in jax.tree.leaves(state.opt_state))


@pytest.mark.parametrize("item", ["student", "teacher"])
def test_networks_are_taken_and_the_optimizer_is_fresh(saved, tmp_path, item):
    workdir, states = saved
    config = wants("init", workdir, **{"init.student": item})
    state = started(config, tmp_path, find_sources(config, resuming=False))
    assert_same(state.student, getattr(states[20], item))
    assert_same(state.teacher, states[20].teacher)
    assert state.gram_teacher == {}
    assert_fresh_moments(state)


def test_fresh_heads_on_a_trained_backbone(saved, tmp_path):
    workdir, states = saved
    config = wants("init", workdir, **{"init.heads": False, "ibot.head.prototypes": 40})
    state = started(config, tmp_path, find_sources(config, resuming=False))
    fresh = jax.tree.map(np.asarray, create_state(config, MESH))
    assert_same(state.student["backbone"], states[20].teacher["backbone"])
    assert_same(state.teacher["backbone"], states[20].teacher["backbone"])
    for head in ("dino_head", "ibot_head"):
        assert_same(state.student[head], fresh.student[head])
        assert_same(state.teacher[head], fresh.teacher[head])
    assert state.student["ibot_head"]["prototypes"]["kernel"].shape == (8, 40)


@pytest.mark.parametrize("centering", ["sinkhorn", "softmax"])
def test_optimizer_goes_on(saved, tmp_path, centering):
    workdir, states = saved
    if centering == "softmax":
        workdir = str(tmp_path / "source")
        source = small_config(**{"teacher.centering": centering})
        states = save_run(workdir, source, (10, 20), seed=5)
    settings = {"init.optimizer": True, "init.student": "student", "init.step": 10, "steps": 40}
    settings["teacher.centering"] = centering
    config = wants("init", workdir, **settings, **{"gram.teacher": "ema"})
    state = started(config, tmp_path / "run", find_sources(config, resuming=False))
    assert state.step == 10
    for part in ("student", "teacher", "opt_state", "centers", "step"):
        assert_same(getattr(state, part), getattr(states[10], part))


def test_a_gram_teacher_from_a_run_beside_an_init_from_another(saved, tmp_path):
    workdir, states = saved
    other = save_run(tmp_path / "other", small_config(), (20,), seed=7)[20]
    config = wants("gram", workdir, **{"init.from": str(tmp_path / "other")})
    state = started(config, tmp_path / "run", find_sources(config, resuming=False))
    assert_same(state.gram_teacher, states[20].teacher["backbone"])
    assert_same(state.teacher, other.teacher)


@pytest.mark.parametrize("init", [False, True])
def test_a_gram_teacher_without_a_checkpoint_begins_as_the_ema_teacher(saved, tmp_path, init):
    """Where the reference, which wants a path in any case, raises."""
    changes = {"gram.teacher": "ema_at_step", "gram.load_step": 2}
    if init:
        changes |= {"init.from": saved[0], "init.student": "student", "init.optimizer": True}
    config = small_config(**changes)
    state = started(config, tmp_path, find_sources(config, resuming=False))
    assert_same(state.gram_teacher, state.teacher["backbone"])
    if init:
        assert_same(state.gram_teacher, saved[1][20].teacher["backbone"])


def test_its_own_checkpoint_comes_first(saved, tmp_path):
    config = wants("gram", saved[0])
    mine = save_run(tmp_path, config, (5, 10), seed=3)
    state = started(config, tmp_path, find_sources(config, resuming=False))
    assert state.step == 10
    assert_same(state, mine[10])  # the Gram teacher too
    with checkpoint.open_checkpoints(tmp_path, config.checkpoint) as manager:
        earlier = start(config, MESH, manager, NONE, newest=9)
        with pytest.raises(checkpoint.CheckpointError, match=r"has the steps \[10, 5\], wanted 4"):
            start(config, MESH, manager, NONE, newest=4)
    assert_same(jax.tree.map(np.asarray, earlier), mine[5])


def test_the_frozen_teacher_is_the_teacher_of_its_run(saved):
    config = wants("distill", saved[0], **{"student.embed_dim": 8})
    frozen = load_frozen(config, MESH, find_sources(config, resuming=False))
    assert_same(jax.tree.map(np.asarray, frozen), saved[1][20].teacher)
    assert load_frozen(small_config(), MESH, NONE) is None


def abstract(config):
    shapes = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))
    return checkpoint.abstract(shapes, state_shardings(config, MESH))


def test_leaves_that_do_not_fit_are_named(saved):
    """A config.json may lie; the arrays do not."""
    workdir, _ = saved
    backbone = abstract(small_config(**{"student.storage_tokens": 2})).teacher["backbone"]
    with pytest.raises(
        checkpoint.CheckpointError,
        match=r"teacher holds other networks.*: backbone/storage_tokens is missing$",
    ):
        checkpoint.load(workdir, 20, "teacher", {"backbone": backbone})
    backbone = abstract(small_config()).teacher["backbone"]
    del backbone["cls_token"]
    with pytest.raises(checkpoint.CheckpointError, match=r": backbone/cls_token is left over$"):
        checkpoint.load(workdir, 20, "teacher", {"backbone": backbone})
    wide = abstract(small_config(**{"student.embed_dim": 24})).teacher
    with pytest.raises(
        checkpoint.CheckpointError,
        match=r"backbone/blocks/attn/proj/bias is \(1, 16\), wanted \(1, 24\); .* and \d+ more",
    ):
        checkpoint.load(workdir, 20, "teacher", {"backbone": wide["backbone"]})


def test_an_item_that_is_not_there(saved):
    backbone = abstract(tiny_config(**SMALL)).teacher["backbone"]
    for step, item in ((20, "gram_teacher"), (15, "teacher")):
        with pytest.raises(checkpoint.CheckpointError, match=rf"has no {item} at step {step}"):
            checkpoint.load(saved[0], step, item, {"backbone": backbone})


def test_one_network_of_an_item_loads_alone(saved):
    like = abstract(dataclasses.replace(small_config(), seed=9)).student
    loaded = checkpoint.load(saved[0], 10, "student", {"backbone": like["backbone"]})
    assert loaded.keys() == {"backbone"}
    assert_same(jax.tree.map(np.asarray, loaded["backbone"]), saved[1][10].student["backbone"])
