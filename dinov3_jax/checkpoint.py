"""Saving and restoring a run. The only file that knows Orbax.

A checkpoint is one folder ``WORKDIR/checkpoints/STEP`` of separate items, so that a teacher loads
without the optimizer: ``student``, ``teacher``, ``gram_teacher`` where there is one, ``optimizer``
(moments, centres, step). Saves are asynchronous; what went wrong in one is raised by the next call
here. Nothing in it depends on the mesh or the number of processes that wrote it. Of several
processes each writes its share, and all make the calls here together.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
from typing import NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath

from dinov3_jax.config import CheckpointConfig
from dinov3_jax.distributed import agree
from dinov3_jax.distributed.sharding import path_name
from dinov3_jax.train.state import TrainState
from dinov3_jax.types import Params

ITEMS = ("student", "teacher", "gram_teacher", "optimizer")
Tree = TypeVar("Tree", TrainState, Params)
_log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written or read, and what to do."""


class Saving(NamedTuple):
    """A save that was started."""

    step: int
    begun: float  # seconds since the epoch
    blocked: float  # seconds that training stood still for it


@contextlib.contextmanager
def open_checkpoints(workdir: epath.PathLike, config: CheckpointConfig):
    """Context of an Orbax manager on ``workdir/checkpoints``; leaving it waits for saves."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=config.keep,
        keep_period=config.keep_every,
        enable_async_checkpointing=True,
        # Several students save at the same time: the processes meet under the student's name.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=epath.Path(workdir).absolute().name
        ),
    )
    folder = epath.Path(workdir).absolute() / "checkpoints"
    manager = ocp.CheckpointManager(folder, options=options, item_names=ITEMS)
    try:
        yield manager
        with _explained(folder):
            manager.wait_until_finished()
    finally:
        manager.close()


def save(manager: ocp.CheckpointManager, state: TrainState, step: int) -> bool:
    """Starts an asynchronous save of ``state`` after ``step`` steps; False if that is there."""
    with _explained(manager.directory):
        manager.check_for_errors()  # of the save before
        if step in manager.all_steps():
            return False
        items = {k: ocp.args.StandardSave(v) for k, v in _items(state).items()}
        manager.save(step, args=ocp.args.Composite(**items), force=True)
    return True


def cost(manager: ocp.CheckpointManager, saving: Saving) -> dict[str, float] | None:
    """Metrics of a save once it is complete; None while it is under way.

    ``checkpoint/blocked_seconds``: training stood still; ``checkpoint/background_seconds``: it went
    on while files were written; ``checkpoint/bytes``: on disk.
    """
    folder = manager.directory / str(saving.step)
    if not folder.exists():
        return None
    written = json.loads((folder / "_CHECKPOINT_METADATA").read_text())["commit_timestamp_nsecs"]
    files = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
    return {
        "checkpoint/blocked_seconds": saving.blocked,
        "checkpoint/background_seconds": max(written / 1e9 - saving.begun - saving.blocked, 0.0),
        "checkpoint/bytes": float(sum(path.stat().st_size for path in files)),
    }


def wait(manager: ocp.CheckpointManager) -> None:
    """Returns when the save under way is complete."""
    with _explained(manager.directory):
        manager.wait_until_finished()


def check(manager: ocp.CheckpointManager) -> None:
    """Raises what went wrong in a save that runs in the background."""
    with _explained(manager.directory):
        manager.check_for_errors()


def restore(
    manager: ocp.CheckpointManager, abstract: TrainState, *, newest: int | None = None
) -> TrainState | None:
    """The newest readable checkpoint, laid out as ``abstract`` (shapes, dtypes, shardings).

    ``newest``: none after this step is looked at. None where there is no checkpoint. A checkpoint
    that cannot be read is reported in the log and the one before is taken; when none can be read
    that is an error, never a silent fresh start. A checkpoint counts as read when all processes
    have read their share of it.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    if newest is not None:
        if steps and min(steps) > newest:
            raise CheckpointError(
                f"{manager.directory} has the steps {steps}, wanted {newest} or one before it; "
                "raise checkpoint.keep, or move the folder away to start this student afresh"
            )
        steps = [step for step in steps if step <= newest]
    for step in steps:
        found = {}
        try:
            run = manager.directory.parent
            found = {k: load(run, step, k, tree) for k, tree in _items(abstract).items()}
        except CheckpointError as error:
            _log.error("CHECKPOINT %d CANNOT BE READ (%s); trying the one before", step, error)
        if agree.which(not found):
            continue
        if jax.process_index() == 0:
            for newer in (s for s in steps if s > step):
                # Its steps are about to be made again. Kept aside: it may tell what went wrong.
                folder = manager.directory / str(newer)
                folder.rename(manager.directory.parent / f"unreadable_checkpoint_{newer}")
        agree.barrier("unreadable checkpoints are out of the way")
        manager.reload()
        return _state(found)
    if steps:
        raise CheckpointError(
            f"none of the checkpoints {steps} in {manager.directory} can be read; the log says "
            "why. Move the folder away to start afresh"
        )
    return None


def abstract(shapes: Tree, shardings: Tree) -> Tree:
    """Shapes of ``jax.eval_shape`` with the shardings they are to be restored in."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def complete_steps(workdir: epath.PathLike) -> list[int]:
    """Steps of the complete checkpoints of ``workdir``, oldest first.

    A checkpoint under way has a longer name, and gets its number when it is whole.
    """
    folder = epath.Path(workdir).absolute() / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def load(workdir: epath.PathLike, step: int, item: str, abstract: Params) -> Params:
    """Networks of one item of another run's checkpoint, laid out as ``abstract``.

    ``abstract`` may hold fewer networks than the item ({"backbone": ...} alone), but each of them
    must be there leaf for leaf, with the same shapes: ``CheckpointError`` names what is not.
    """
    folder = epath.Path(workdir).absolute() / "checkpoints" / str(step) / item
    if not folder.exists():
        raise CheckpointError(
            f"{folder.parent.parent.parent} has no {item} at step {step}; there are "
            f"{sorted(path.name for path in folder.parent.parent.glob('*/*'))}"
        )
    handler = ocp.PyTreeCheckpointHandler()
    # Each process reads for itself: waiting for others would be for ever where one cannot read.
    me = jax.process_index()
    itself = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    try:
        with contextlib.closing(
            ocp.Checkpointer(handler, multiprocessing_options=itself)
        ) as reader:
            _fit(folder, handler.metadata(folder).tree, abstract)
            args = ocp.args.PyTreeRestore(
                item=abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                partial_restore=True,
            )
            return reader.restore(folder, args=args)
    except (CheckpointError, MemoryError, PermissionError):
        raise  # after the last two the checkpoint may well be whole
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise CheckpointError(
            f"{folder} cannot be read ({type(error).__name__}: {reason}); take another checkpoint "
            "of that run"
        ) from error


def load_state(workdir: epath.PathLike, step: int, abstract: TrainState) -> TrainState:
    """Student, teacher and optimizer of another run's checkpoint; no Gram teacher."""
    items = _items(dataclasses.replace(abstract, gram_teacher={}))
    return _state({name: load(workdir, step, name, tree) for name, tree in items.items()})


def write_networks(workdir: epath.PathLike, networks: Params) -> None:
    """A checkpoint at step 0 that holds ``networks`` as student and as teacher, no optimizer."""
    config = CheckpointConfig(every=1, keep=1, keep_every=None, local=None, local_every=1)
    with open_checkpoints(workdir, config) as manager, _explained(manager.directory):
        items = {item: ocp.args.StandardSave(networks) for item in ("student", "teacher")}
        manager.save(0, args=ocp.args.Composite(**items))


def _fit(folder, saved, abstract):
    """Raises unless the networks of ``abstract`` are saved with the same leaves."""

    def shapes(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {path_name(path): tuple(leaf.shape) for path, leaf in leaves}

    there = shapes({name: saved[name] for name in abstract if name in saved})
    wanted = shapes(abstract)
    wrong = [f"{k} is missing" for k in sorted(wanted.keys() - there.keys())]
    wrong += [f"{k} is left over" for k in sorted(there.keys() - wanted.keys())]
    wrong += [
        f"{k} is {there[k]}, wanted {wanted[k]}"
        for k in sorted(wanted.keys() & there.keys())
        if there[k] != wanted[k]
    ]
    if wrong:
        more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise CheckpointError(
            f"{folder} holds other networks than this recipe: {'; '.join(wrong[:6])}{more}"
        )


def _items(state):
    rest = {"opt_state": state.opt_state, "centers": state.centers, "step": state.step}
    items = {"student": state.student, "teacher": state.teacher, "optimizer": rest}
    return items | ({"gram_teacher": state.gram_teacher} if state.gram_teacher else {})


def _state(items):
    networks = {k: items.get(k, {}) for k in ("student", "teacher", "gram_teacher")}
    return TrainState(**networks, **items["optimizer"])


@contextlib.contextmanager
def _explained(folder):
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"saving to {folder} failed: {type(error).__name__}: {error}. The last complete "
            "checkpoint is untouched; free space or mend the folder, then run the same command"
        ) from error
