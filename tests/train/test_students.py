"""Where the students of a run stand when it is started again."""

import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from dinov3_jax import checkpoint
from dinov3_jax.train import loop, state
from dinov3_jax.train.metrics import read_metrics
from dinov3_jax.train.start import Origin, Sources
from dinov3_jax.train.students import Plan, open_students
from dinov3_jax.train.workdir import begins, write_begins
from tests.train.saved import MESH, save_run, small_config

NONE = Sources(None, None, None)
STEPS = {"a": 12, "b": 24, "c": 24}


@functools.cache
def shapes(config):
    return jax.eval_shape(lambda: state.init_state(config, jax.random.key(0)))


SHARDINGS = functools.cache(lambda config: state.state_shardings(config, MESH))


@pytest.fixture(autouse=True)
def initial_states_are_zero(monkeypatch):
    """To trace and compile the real ones would be most of the time of these tests."""
    zeros = lambda config, key: jax.tree.map(jnp.zeros_like, shapes(config))  # noqa: E731
    for name, value in {
        "init_state": zeros,
        "state_shardings": lambda config, mesh: SHARDINGS(config),
        "create_state": lambda config, mesh: jax.device_put(zeros(config, None), SHARDINGS(config)),
    }.items():
        monkeypatch.setattr(f"dinov3_jax.train.start.{name}", value)


def config_of(name, **changes):
    return small_config(**{"steps": STEPS[name], "checkpoint.every": 4, **changes})


def save(folder, **numbers):
    """Student -> numbers of its checkpoints; with begins: (step at which it joined, numbers).

    Every number has a row of metrics. Returns states by student and number.
    """
    states, joined = {}, {}
    for name, given in numbers.items():
        joined[name], saved = given if isinstance(given, tuple) else (0, given)
        own = [number - joined[name] for number in saved]
        made = save_run(folder / name, config_of(name), own, begin=joined[name])
        states[name] = dict(zip(saved, made.values()))
        rows = [json.dumps({"step": i}) + "\n" for i in range(joined[name], max(saved) + 1)]
        (folder / name / "metrics.jsonl").write_text("".join(rows))
    write_begins(epath.Path(folder), joined)
    return states


def opened(folder, *names, sources=NONE, **changes):
    """(student name -> (its number of steps, begin, state), step of the run)."""
    folder = epath.Path(folder)
    plans = {
        name: Plan(
            config=config_of(name, **changes),
            workdir=folder / name,
            sources=sources,
            fresh=not checkpoint.complete_steps(folder / name),
            local=None,
        )
        for name in names
    }
    with open_students(plans, dict.fromkeys(names), folder, MESH, None) as (students, now):
        found = {s.name: (int(s.state.step), s.begin, s.state) for s in students}
        assert [s.end for s in students] == [s.begin + s.config.steps for s in students]
    return found, now


def stand(found):
    return {name: begin + own for name, (own, begin, _) in found.items()}


def assert_is(found, wanted):
    got = jax.tree.map(np.asarray, found[2])
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def rows(folder, name):
    return [row["step"] for row in read_metrics(epath.Path(folder) / name)]


def test_a_new_run_begins_at_0(tmp_path):
    found, now = opened(tmp_path, "b", "c")
    assert now == 0
    assert stand(found) == {"b": 0, "c": 0}
    assert begins(epath.Path(tmp_path)) == {"b": 0, "c": 0}


def test_a_kill_between_two_saves(tmp_path):
    """Those ahead go back to the newest step that all have; so do their rows of metrics."""
    saved = save(tmp_path, b=[4, 8, 12], c=[4, 8])
    found, now = opened(tmp_path, "b", "c")
    assert now == 8
    assert stand(found) == {"b": 8, "c": 8}
    for name in ("b", "c"):
        assert_is(found[name], saved[name][8])
        assert rows(tmp_path, name) == list(range(9))
    assert checkpoint.complete_steps(tmp_path / "b") == [4, 8, 12]  # 12 will be made once more


def test_back_to_a_step_that_all_have_though_some_lack_the_one_between(tmp_path):
    """A signal saved "b" at 7, and "c" did not come to it; "c" lost 4."""
    save(tmp_path, b=[3, 4, 7], c=[3, 6])
    found, now = opened(tmp_path, "b", "c")
    assert now == 3
    assert stand(found) == {"b": 3, "c": 3}


def test_nothing_in_common_is_an_error_not_a_fresh_start(tmp_path):
    save(tmp_path, b=[8, 12], c=[4])
    with pytest.raises(
        checkpoint.CheckpointError, match=r"steps \[12, 8\], wanted 4.*move the fold"
    ):
        opened(tmp_path, "b", "c")


def test_a_new_student_begins_where_the_others_stand(tmp_path):
    saved = save(tmp_path, b=[4, 8, 12], c=[4, 8])
    found, now = opened(tmp_path, "b", "c", "a")
    assert now == 8
    assert found["a"][:2] == (0, 8)  # its own step 0, step 8 of the run
    assert_is(found["c"], saved["c"][8])
    assert begins(epath.Path(tmp_path)) == {"b": 0, "c": 0, "a": 8}
    # Killed before its first checkpoint, it is still there.
    found, now = opened(tmp_path, "b", "c", "a")
    assert now == 8
    assert found["a"][:2] == (0, 8)


def test_a_student_that_joined_late_counts_from_where_it_joined(tmp_path):
    saved = save(tmp_path, b=[8, 12, 16], c=(6, [12]))
    found, now = opened(tmp_path, "b", "c")
    assert now == 12
    assert found["c"][:2] == (6, 6)
    assert_is(found["b"], saved["b"][12])
    assert_is(found["c"], saved["c"][12])


def test_a_dropped_student_is_left_alone(tmp_path):
    save(tmp_path, b=[4, 8], c=[4])
    before = sorted((tmp_path / "c").rglob("*"))
    found, now = opened(tmp_path, "b")
    assert now == 8
    assert found.keys() == {"b"}
    assert begins(epath.Path(tmp_path)) == {"b": 0, "c": 0}  # it can come back
    assert sorted((tmp_path / "c").rglob("*")) == before
    assert rows(tmp_path, "c") == list(range(5))


def test_a_finished_student_does_not_drag_the_others_back(tmp_path):
    saved = save(tmp_path, a=[8, 12], b=[12, 16, 20], c=[12, 16, 20])
    found, now = opened(tmp_path, "a", "b", "c")
    assert now == 20
    assert stand(found) == {"a": 12, "b": 20, "c": 20}
    assert_is(found["a"], saved["a"][12])
    assert rows(tmp_path, "a") == list(range(13))


def test_nor_do_the_others_drag_it_back(tmp_path):
    """Killed between the last save of "a" and those of the others, which go back to 8."""
    saved = save(tmp_path, a=[12], b=[4, 8], c=[4, 8, 12])
    found, now = opened(tmp_path, "a", "b", "c")
    assert now == 8
    assert stand(found) == {"a": 12, "b": 8, "c": 8}
    assert_is(found["a"], saved["a"][12])
    assert rows(tmp_path, "a") == list(range(13))


def test_after_all_have_finished_a_new_student_begins_there(tmp_path):
    save(tmp_path, a=[8, 12])
    _, now = opened(tmp_path, "a")
    assert now == 12
    found, now = opened(tmp_path, "a", "b")
    assert now == 12
    assert found["b"][:2] == (0, 12)


def test_students_that_come_with_steps(tmp_path):
    """``init.optimizer``: its own step goes on from 10, and ends that much earlier in the run."""
    origin = save_run(tmp_path / "origin", config_of("b"), [10])[10]
    sources = Sources(Origin(str(tmp_path / "origin"), 10), None, None)
    changes = {"init.optimizer": True, "init.student": "student"}
    found, now = opened(tmp_path / "run", "b", "c", sources=sources, **changes)
    assert now == 0
    assert {name: at[:2] for name, at in found.items()} == {"b": (10, -10), "c": (10, -10)}
    assert_is(found["c"], origin)
    save_run(tmp_path / "run" / "b", config_of("b"), [14], begin=-10)
    save_run(tmp_path / "run" / "c", config_of("c"), [14], begin=-10)
    found, now = opened(tmp_path / "run", "b", "c")
    assert now == 4
    assert stand(found) == {"b": 4, "c": 4}


def test_a_run_of_one_has_its_own_time(tmp_path):
    save_run(tmp_path, config_of("b"), [4, 8])
    with checkpoint.open_checkpoints(tmp_path, config_of("b").checkpoint):
        pass
    plan = Plan(
        config=config_of("b"),
        workdir=epath.Path(tmp_path),
        sources=NONE,
        fresh=False,
        local=None,
    )
    with open_students({"": plan}, {"": None}, plan.workdir, MESH, None) as ((student,), now):
        assert (now, student.begin, int(student.state.step)) == (8, 0, 8)
    assert not (tmp_path / "students.json").exists()


def test_the_loop_moves_those_that_have_steps_left(tmp_path, monkeypatch):
    """With programs of Python. "a" is finished, ahead of the others and beyond their end."""
    stepped, saved, assessed = [], [], []

    def student(name, own, begin, steps):
        return types.SimpleNamespace(
            name=name,
            config=config_of(name, **{"steps": steps, "eval.every": 100}),
            state=types.SimpleNamespace(step=own),
            begin=begin,
            end=begin + steps,
            fresh=own == 0,
            workdir=epath.Path(tmp_path),
            manager=name,
            last_loss=0.0,
            note=lambda *row: None,
            assess=lambda done: assessed.append((name, done)),
            save=lambda done: saved.append((name, done)),
            note_save=lambda: None,
            local=None,
        )

    def compile_steps(configs, mesh, source, arguments):
        assert configs  # no program of nobody

        def program(states, step, key, frozen):
            assert states.keys() == configs.keys() == arguments.states.keys()
            stepped.extend((name, step) for name in states)
            moved = {name: types.SimpleNamespace(step=s.step + 1) for name, s in states.items()}
            return moved, {name: {} for name in states}

        return [program]

    prefetch = lambda config, mesh, source, start, end: ((i, {}) for i in range(start, end))  # noqa: E731
    monkeypatch.setattr(loop, "compile_steps", compile_steps)
    monkeypatch.setattr(loop, "_prefetch", prefetch)
    monkeypatch.setattr(checkpoint, "wait", lambda manager: None)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    given = [student("a", 30, 0, 30), student("b", 8, 0, 14), student("c", 0, 8, 9)]
    loop._run(given, MESH, None, None, 8, types.SimpleNamespace(signal=None))
    assert stepped == (
        [(name, step) for step in range(8, 14) for name in ("b", "c")]
        + [("c", step) for step in range(14, 17)]
    )
    assert saved == [("b", 12), ("c", 12), ("b", 14), ("c", 16), ("c", 17)]
    assert assessed == [("c", 8), ("b", 14), ("c", 17)]
    assert [s.state.step for s in given] == [30, 14, 9]
