"""What the processes of a run tell each other outside the compiled step.

All but the notes are collectives: every process calls them, in the same order. In a run of one
process they cost nothing.
"""

import hashlib
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # the notes: JAX has no public way to its key-value store
from jax.experimental import multihost_utils

from dinov3_jax.config import ConfigError
from dinov3_jax.distributed.rollcall import named


def barrier(name: str) -> None:
    """Returns when all processes are here; an error where another one waits at another name."""
    multihost_utils.sync_global_devices(name)


def largest(value: int) -> int:
    """The largest ``value`` that a process has, an int32."""
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def which(holds: bool) -> list[int]:
    """The indices of the processes in which ``holds`` is true."""
    return np.flatnonzero(multihost_utils.process_allgather(np.bool_(holds))).tolist()


def check_same(what: str, text: str) -> None:
    """``ConfigError`` in all processes, with the indices, unless ``text`` is that of process 0."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
    digests = multihost_utils.process_allgather(digest)  # [processes, 8]
    others = np.flatnonzero((digests != digests[0]).any(axis=1)).tolist()
    if others:
        raise ConfigError(
            f"{what} of {named(others)} differs from that of process 0; all need the same version "
            "of the code, the same command and the same files"
        )


def fetch(x: jax.Array) -> np.ndarray:
    """The whole of a global array, in every process."""
    if x.is_fully_addressable:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def read_note(name: str) -> str | None:
    """The note that some process has left under ``name``, or None. No collective; about 1 ms."""
    try:
        return _store().key_value_try_get(name)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise


def leave_note(name: str, text: str) -> None:
    """Leaves a note for all processes, unless there is one of that name: the first one counts."""
    try:
        _store().key_value_set(name, text)
    except jax.errors.JaxRuntimeError as error:
        if "ALREADY_EXISTS" not in str(error):
            raise


def _store() -> Any:
    return distributed.global_state.client
