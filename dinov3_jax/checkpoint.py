"""Saving and restoring a run. The only file that knows Orbax.

A checkpoint is one folder ``WORKDIR/checkpoints/STEP`` of separate items, so that a teacher loads
without the optimizer: ``student``, ``teacher``, ``optimizer`` (moments, centres, step). Saves are
asynchronous; what went wrong in one is raised by the next call here.
"""

import contextlib
import logging

import jax
import orbax.checkpoint as ocp
from etils import epath

from dinov3_jax.config import CheckpointConfig
from dinov3_jax.train.state import TrainState

ITEMS = ("student", "teacher", "optimizer")
_log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written or read, and what to do."""


@contextlib.contextmanager
def open_checkpoints(workdir: epath.PathLike, config: CheckpointConfig):
    """Context of an Orbax manager on ``workdir/checkpoints``; leaving it waits for saves."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=config.keep,
        keep_period=config.keep_every,
        enable_async_checkpointing=True,
    )
    folder = epath.Path(workdir).absolute() / "checkpoints"
    manager = ocp.CheckpointManager(folder, options=options, item_names=ITEMS)
    try:
        yield manager
        with _explained(folder):
            manager.wait_until_finished()
    finally:
        manager.close()


def save(manager: ocp.CheckpointManager, state: TrainState, step: int) -> None:
    """Starts an asynchronous save of ``state`` after ``step`` steps."""
    with _explained(manager.directory):
        manager.check_for_errors()  # of the save before
        if step in manager.all_steps():
            return
        items = {k: ocp.args.StandardSave(v) for k, v in _items(state).items()}
        manager.save(step, args=ocp.args.Composite(**items), force=True)


def wait(manager: ocp.CheckpointManager) -> None:
    """Returns when the save under way is complete."""
    with _explained(manager.directory):
        manager.wait_until_finished()


def check(manager: ocp.CheckpointManager) -> None:
    """Raises what went wrong in a save that runs in the background."""
    with _explained(manager.directory):
        manager.check_for_errors()


def restore(manager: ocp.CheckpointManager, abstract: TrainState) -> TrainState | None:
    """The newest readable checkpoint, laid out as ``abstract`` (shapes, dtypes, shardings).

    None where there is no checkpoint. A checkpoint that cannot be read is reported in the log and
    the one before is taken; when none can be read that is an error, never a silent fresh start.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
        try:
            items = {k: ocp.args.StandardRestore(v) for k, v in _items(abstract).items()}
            found = manager.restore(step, args=ocp.args.Composite(**items))
        except (MemoryError, PermissionError):
            raise  # the checkpoint may well be whole
        except Exception as error:
            _log.error(
                "CHECKPOINT %d CANNOT BE READ (%s: %s); trying the one before",
                step,
                type(error).__name__,
                str(error).splitlines()[0] if str(error) else "",
            )
            continue
        for newer in (s for s in steps if s > step):
            # Its steps are about to be made again. Kept aside: it may tell what went wrong.
            folder = manager.directory / str(newer)
            folder.rename(manager.directory.parent / f"unreadable_checkpoint_{newer}")
        manager.reload()
        return TrainState(student=found["student"], teacher=found["teacher"], **found["optimizer"])
    if steps:
        raise CheckpointError(
            f"none of the checkpoints {steps} in {manager.directory} can be read; the log says "
            "why. Move the folder away to start afresh"
        )
    return None


def abstract_state(shapes: TrainState, shardings: TrainState) -> TrainState:
    """Shapes of ``jax.eval_shape`` with the shardings they are to be restored in."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def _items(state):
    rest = {"opt_state": state.opt_state, "centers": state.centers, "step": state.step}
    return {"student": state.student, "teacher": state.teacher, "optimizer": rest}


@contextlib.contextmanager
def _explained(folder):
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"saving to {folder} failed: {type(error).__name__}: {error}. The last complete "
            "checkpoint is untouched; free space or mend the folder, then run the same command"
        ) from error
