"""Joins the processes of one run, one or more a host. See docs/hosts.md."""

import logging
import os

import jax
from jax._src import clusters  # JAX starts on what it detects; only here it says what that is

from dinov3_jax.config import ConfigError
from dinov3_jax.distributed import rollcall

_log = logging.getLogger(__name__)

# Seconds without a sign of life after which a process counts as dead and JAX ends all others. A
# run that is stuck costs every device of it, a network that stutters is over in less.
HEARTBEAT = 60
# Seconds a process that ends waits for the others. Those of a run end together (``agree.barrier``),
# so this is how long one that failed may hold up the news.
SHUTDOWN = 20


def join(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    timeout: int,
) -> None:
    """Makes this process number ``index`` of ``count``; before anything asks JAX for a device.

    Without arguments JAX looks for a TPU pod, a SLURM step, Open MPI or Kubernetes around it; where
    there is none, or one of a single process, nothing happens. ``coordinator`` is HOST:PORT of
    process 0. A process takes all devices it sees (JAX_LOCAL_DEVICE_IDS restricts them).

    Raises ``HostsError``, naming who is missing, unless all processes are there within ``timeout``
    seconds; ``ConfigError`` for arguments that say too little.
    """
    given = (coordinator, count, index)
    if given == (None, None, None):
        coordinator, count, index = _detect(timeout)
        if count is None or count == 1:
            return
    if coordinator is None or count is None or index is None:
        raise ConfigError(
            f"coordinator {given[0]}, process count {given[1]}, process index {given[2]}: all "
            "three are needed, or none where JAX finds the cluster itself"
        )
    if not 0 <= index < count:
        raise ConfigError(f"process index is {index}, wanted 0 to {count - 1}")
    if not coordinator.rpartition(":")[2].isdigit() or ":" not in coordinator:
        raise ConfigError(f"coordinator is {coordinator!r}, wanted HOST:PORT of process 0")
    rollcall.call(coordinator, index=index, count=count, timeout=timeout)
    # Its own handler of SIGTERM would swallow the signal until training asks for it; ours is in
    # train/stop.py.
    jax.config.update("jax_enable_preemption_service", False)
    logging.getLogger("jax._src.distributed").setLevel(logging.WARNING)
    jax.distributed.initialize(
        coordinator,
        count,
        index,
        cluster_detection_method="deactivate",  # done, and it would leave one GPU to a SLURM task
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=SHUTDOWN,
    )
    _log.info(
        "process %d of %d: %d of %d %s devices",
        index, count, jax.local_device_count(), jax.device_count(), jax.default_backend(),
    )  # fmt: skip


def _detect(timeout):
    """(coordinator, process count, process index) of the cluster around us, or three times None."""
    coordinator = os.environ.get("JAX_COORDINATOR_ADDRESS")
    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        coordinator, None, None, [0], None, timeout
    )
    return found[:3]
