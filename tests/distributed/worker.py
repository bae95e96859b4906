"""What one of several processes does for tests/distributed/test_hosts.py.

``python -m tests.distributed.worker WORKDIR --coordinator=... --process_count=... ...``
"""

import argparse
import dataclasses
import pathlib
from unittest import mock

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from dinov3_jax import checkpoint
from dinov3_jax.cli import hosts
from dinov3_jax.config import ConfigError, MeshConfig
from dinov3_jax.distributed import agree
from dinov3_jax.distributed.mesh import AXES, alone, global_batch, local_groups, make_mesh
from dinov3_jax.distributed.rollcall import named
from dinov3_jax.evals.settings import find
from dinov3_jax.train import local_saves
from dinov3_jax.train.state import init_state, state_shardings
from dinov3_jax.train.suite import suite_row
from tests.train.runs import assert_equal_bits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=pathlib.Path)
    hosts.add_flags(parser)
    options = parser.parse_args()
    hosts.join(options)
    from tests.train import saved  # asks for devices, which is too early above

    me, count = jax.process_index(), jax.process_count()
    assert (me, count) == (options.process_index, options.process_count)

    _batches(saved.small_config(), me, count)
    _agreements(me, count)
    _checkpoints(options.workdir, saved.small_config(), saved.state_at)
    folder = options.workdir.parent
    suite = (
        ("knn", str(folder / "labelled"), ("resize=8", "crop=8", "neighbours=2,5")),
        ("attention", str(folder / "masked"), ("size=16", "batch=2")),
    )
    evaluate(saved.small_config(), saved.state_at, suite)
    _local_saves(options.workdir, saved.small_config(), saved.state_at)
    agree.barrier("the end")


def _batches(config, me, count):
    """On a mesh in which the hosts' devices take turns, every row still has its place."""
    turns = np.array(jax.devices()).reshape(count, -1).T.reshape(1, -1, 1, 1)
    mesh = Mesh(turns, AXES)
    rows = np.arange(8 * turns.size).reshape(-1, 4)  # two rows a device
    batch = dataclasses.replace(config.batch, images=len(rows))
    groups = local_groups(batch, mesh)
    assert groups == list(range(me, turns.size, count))
    local = rows.reshape(turns.size, 2, 4)[groups].reshape(-1, 4)
    x = global_batch({"rows": local}, mesh)["rows"]
    assert not x.is_fully_addressable
    np.testing.assert_array_equal(agree.fetch(x), rows)
    with jax.set_mesh(make_mesh(MeshConfig(1, -1, 1, 1))), alone():
        if me == 0:  # would wait for the others in vain if it were theirs too
            assert jax.numpy.ones(3).sum().is_fully_addressable


def _agreements(me, count):
    assert agree.largest(10 + me) == 9 + count
    assert agree.which(me != 0) == list(range(1, count))
    agree.check_same("this", "the same")
    others = named(list(range(1, count)))
    with pytest.raises(ConfigError, match=f"the recipe of {others} differs from that of process 0"):
        agree.check_same("the recipe", f"mine {me}")
    assert agree.read_note("note") is None
    agree.barrier("nobody has left a note")
    agree.leave_note("note", str(me))
    agree.barrier("everybody has")
    first = agree.read_note("note")
    assert agree.which(first == str(me)) == [int(first or -1)]


def _checkpoints(workdir, config, state_at):
    """Step 1 was saved by one process on one device; steps 2 and 3 are saved by all of us.

    Step 3 cannot be read by one, so that all go back to step 2.
    """
    mesh = make_mesh(config.mesh)
    shardings = state_shardings(config, mesh)
    shapes = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))
    with checkpoint.open_checkpoints(workdir, config.checkpoint) as manager:
        state = checkpoint.restore(manager, checkpoint.abstract(shapes, shardings))
        assert state is not None
        assert_equal_bits(jax.tree.map(agree.fetch, state), state_at(config, 1))

        for step in (2, 3):
            assert checkpoint.save(
                manager, jax.tree.map(_place, state_at(config, step), shardings), step
            )
        checkpoint.wait(manager)

        def torn(workdir, step, item, tree):
            if step == 3 and jax.process_index() == 1:
                raise checkpoint.CheckpointError("torn for one of us")
            return load(workdir, step, item, tree)

        load = checkpoint.load
        with mock.patch.object(checkpoint, "load", torn):
            state = checkpoint.restore(manager, checkpoint.abstract(shapes, shardings))
        assert state is not None
        assert int(state.step) == 2


def evaluate(config, state_at, suite):
    """Evaluations on all devices give each process what its own device gives it."""
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, suite=suite))
    teacher, mesh = state_at(config, 1).teacher, make_mesh(MeshConfig(1, -1, 1, 1))
    shared = jax.tree.map(_place, teacher, state_shardings(config, mesh).teacher)
    with jax.set_mesh(mesh):  # as in the loop
        row = suite_row(config, shared, mesh, first=True)
    assert {f"eval/{name}/{find(name).main}" for name, _, _ in suite} <= row.keys()
    alone = make_mesh(MeshConfig(1, 1, 1, 1), jax.local_devices()[:1])
    # Most are counts and rankings, which rounding does not turn here; the errors of a trained
    # probe are of sums in another order.
    assert row == pytest.approx(suite_row(config, teacher, alone, first=True), rel=1e-5)


def _place(x, sharding):
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _local_saves(workdir, config, state_at):
    """Process 0 has written its part of step 5 and process 1 has not: all go back to step 4."""
    shardings = state_shardings(config, make_mesh(config.mesh))
    shapes = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))

    own = dataclasses.replace(config.checkpoint, local=str(workdir.parent / "local"))
    folder = local_saves.folder(own, workdir, "recipe and data")
    assert folder is not None
    for step in (4, 5):
        if step == 4 or jax.process_index() == 0:
            state = jax.tree.map(_place, state_at(config, step), shardings)
            local_saves.save(folder, state, step)
    state = local_saves.restore(folder, checkpoint.abstract(shapes, shardings), after=3)
    assert state is not None
    assert_equal_bits(jax.tree.map(agree.fetch, state), state_at(config, 4))


if __name__ == "__main__":
    main()
