"""Who is here? Asked before JAX connects the processes, because JAX cannot say who is missing.

Process 0 listens on the coordinator's port until all others have called in, then frees the port
for JAX's own service. Each caller sends one line, ``dinov3 INDEX COUNT``, and gets one back: ``go``
or the reason why the run does not start.
"""

import contextlib
import logging
import socket
import time

_log = logging.getLogger(__name__)

_REMINDER = 30.0  # seconds between two log lines about who is missing
_RETRY = 0.5  # seconds between two attempts to reach process 0
_GRACE = 10.0  # seconds a caller waits longer than process 0, so that it hears the reason
_LINE = 1000  # bytes of a line, at most


class HostsError(RuntimeError):
    """The processes of a run do not come together, who is missing, and what to look at."""


def call(address: str, *, index: int, count: int, timeout: float) -> None:
    """Returns in every process when all ``count`` have called; process 0 is at ``address``.

    ``address`` is HOST:PORT. Raises ``HostsError`` after ``timeout`` seconds: processes that came
    are told the indices of those that did not, a process that cannot reach process 0 says so.
    """
    host, _, port = address.rpartition(":")
    if index == 0:
        _listen(address, int(port), count, timeout)
    else:
        _report(address, host, int(port), index, count, timeout)


def _listen(address, port, count, timeout):
    deadline = time.monotonic() + timeout
    came: dict[int, socket.socket] = {}
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    problem = None
    try:
        server = socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=dual)
    except OSError as error:
        raise HostsError(
            f"process 0 cannot listen on {address} ({error}); take another port in --coordinator"
        ) from error
    with server:
        while len(came) < count - 1 and problem is None:
            left = deadline - time.monotonic()
            server.settimeout(max(min(left, _REMINDER), 0.001))
            try:
                caller, _ = server.accept()
                problem = _welcome(caller, came, count)
            except TimeoutError:
                missing = f"{named(sorted(set(range(1, count)) - came.keys()))} of {count}"
                if left > _REMINDER:
                    _log.warning("waiting for %s at %s", missing, address)
                    continue
                problem = (
                    f"{missing} did not call process 0 at {address} within {timeout:g} s; see "
                    "whether they started, and can reach that port"
                )
    # Closed by now: the port is free for the service to which "go" sends everybody.
    for caller in came.values():
        with caller, contextlib.suppress(OSError):  # one that died since; JAX will miss it
            caller.sendall(f"{problem or 'go'}\n".encode())
    if problem is not None:
        raise HostsError(problem)


def _welcome(caller, came, count):
    """Adds a caller to ``came``; a reason not to start, or None. Strangers are not answered."""
    try:
        caller.settimeout(5.0)
        word, index, theirs = _line(caller).split()
        index, theirs = int(index), int(theirs)
    except (OSError, ValueError):
        word = ""
    if word != "dinov3":
        caller.close()
        return None
    came.setdefault(index, caller)
    if theirs != count or not 0 < index < count:
        return f"process 0 expects {count} processes, process {index} of {theirs} called"
    if came[index] is not caller:
        came[-1] = caller  # it hears the reason too
        return f"two processes say that they are process {index}; each needs an index of its own"
    return None


def _report(address, host, port, index, count, timeout):
    deadline = time.monotonic() + timeout
    while True:
        try:
            call = socket.create_connection((host, port), timeout=_GRACE)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise HostsError(
                    f"process {index} of {count} cannot reach process 0 at {address} "
                    f"({error}) for {timeout:g} s; see whether process 0 started, and "
                    "whether a firewall is between them"
                ) from error
            time.sleep(_RETRY)
    with call:
        try:
            call.sendall(f"dinov3 {index} {count}\n".encode())
            call.settimeout(timeout + _GRACE)  # process 0 may have begun to wait later
            answer = _line(call)
        except OSError as error:
            answer = str(error)
    if answer != "go":
        raise HostsError(answer or f"{address} hung up: an older run may still hold that port")


def _line(connection):
    with connection.makefile("rb") as file:
        return file.readline(_LINE).decode(errors="replace").strip()


def named(processes: list[int]) -> str:
    """As "process 3" or "processes 1, 3"."""
    word = "process" if len(processes) == 1 else "processes"
    return f"{word} {', '.join(map(str, processes))}"
