"""The emergency tier: each process keeps its own part of the newest states on its own machine.

A shared checkpoint of a large run takes long, so it is seldom written. Between two of them a
process writes what its devices hold into a folder of its own (``checkpoint.local``: a RAM disk or a
local disk), while training stands still. A run that is started again on the same machines, after a
crash and not the loss of a machine, goes on from there if all processes have the same step and it
is newer than the newest shared checkpoint. Devices and processes must be laid out as before.

    LOCAL/IDENTITY/0_of_4/STEP.npz    of process 0 of 4; complete, or not there
"""

import contextlib
import hashlib
import logging
import pathlib
import zipfile

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from dinov3_jax.config import CheckpointConfig
from dinov3_jax.distributed import agree
from dinov3_jax.distributed.sharding import path_name
from dinov3_jax.train.state import TrainState

KEPT = 2  # processes may be killed between the saves of one step: then all have the one before

_log = logging.getLogger(__name__)


def folder(config: CheckpointConfig, run: epath.PathLike, identity: str) -> pathlib.Path | None:
    """Where this process keeps its part of ``run`` (a workdir); None if the tier is off.

    ``identity`` of the run, its recipe and its data: another one has another folder.
    """
    if config.local is None:
        return None
    key = hashlib.sha256(f"{epath.Path(run).absolute()}\n{identity}".encode()).hexdigest()[:16]
    name = f"{jax.process_index()}_of_{jax.process_count()}"
    return pathlib.Path(config.local).expanduser() / key / name


def save(place: pathlib.Path, state: TrainState, step: int) -> bool:
    """Writes what this process holds of ``state``; keeps the newest ``KEPT`` steps.

    Where that fails, as on a full disk, the log says so, what was there before stays, and the
    answer is False: training does not depend on it.
    """
    for leaf in jax.tree.leaves(state):
        leaf.copy_to_host_async()
    arrays = {
        name: np.asarray(shard.data)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        for name, shard in _shards(path, leaf).items()
    }
    draft = place / "draft"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]  no name is a keyword
        draft.replace(place / f"{step}.npz")
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        _log.warning(
            "step %d is not saved in %s (%s) and training goes on: free %.1f GB there, or start "
            "again with another checkpoint.local",
            step, place, error, (KEPT + 1) * sum(x.nbytes for x in arrays.values()) / 1e9,
        )  # fmt: skip
        return False
    for old in steps(place)[:-KEPT]:
        (place / f"{old}.npz").unlink()
    return True


def steps(place: pathlib.Path) -> list[int]:
    return sorted(int(path.stem) for path in place.glob("*.npz"))


def restore(place: pathlib.Path, abstract: TrainState, *, after: int) -> TrainState | None:
    """The newest state after step ``after`` that every process has whole, or None.

    ``abstract``: shapes, dtypes, shardings. A file that is damaged or of other shards is named in
    the log and does not count. All processes call.
    """
    mine = np.full(KEPT, -1, np.int32)
    found = [step for step in steps(place) if step > after][-KEPT:]
    mine[: len(found)] = found
    theirs = multihost_utils.process_allgather(mine).reshape(-1, KEPT)
    common = set.intersection(*(set(row.tolist()) for row in theirs)) - {-1}
    for step in sorted(common, reverse=True):
        state = None
        try:
            state = _load(place / f"{step}.npz", abstract)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            _log.error("%s is not used: %s", place / f"{step}.npz", error)
        if not agree.which(state is None):
            return state
    return None


def _load(path, abstract):
    with np.load(path) as saved:
        tree = jax.tree_util.tree_map_with_path(lambda p, x: _leaf(saved, p, x), abstract)
    return tree


def _leaf(saved, path, like):
    parts = like.sharding.addressable_devices_indices_map(like.shape)
    arrays = []
    for device, index in parts.items():
        data = saved[_name(path, index, like.shape)]
        if data.dtype != like.dtype:
            raise ValueError(f"{path_name(path)} is {data.dtype}, wanted {like.dtype}")
        arrays.append(jax.device_put(data, device))
    return jax.make_array_from_single_device_arrays(like.shape, like.sharding, arrays)


def _shards(path, leaf):
    """Name -> shard of every different part that this process holds."""
    return {_name(path, shard.index, leaf.shape): shard for shard in leaf.addressable_shards}


def _name(path, index, shape):
    """``student/.../kernel:0-8,0-16``: the rows and columns of one shard."""
    spans = (part.indices(size)[:2] for part, size in zip(index, shape))
    return f"{path_name(path)}:{','.join(f'{a}-{b}' for a, b in spans)}"
