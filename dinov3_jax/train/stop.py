"""Signals that end a run in good order, in all of its processes after the same step."""

import contextlib
import signal

import jax

from dinov3_jax.distributed import agree


@contextlib.contextmanager
def stop_requested():
    """An object whose ``signal`` is SIGTERM or SIGINT once that came; a second one acts at once."""

    class Request:
        signal: int | None = None

    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number, frame):
        Request.signal = number
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield Request
    finally:
        restore()


def stops_after(done: int, *, wanted: bool, ahead: int, name: str) -> bool:
    """Whether the run stops after ``done`` steps: the same answer in every process.

    Ask after each step. ``wanted``: this process was asked to stop. ``ahead``: how many steps this
    loop starts beyond the last one whose metrics it has read. ``name``: of this run.

    One process stops at once. Of several, the one that is asked leaves a note with a step that no
    other has passed. Metrics are made by all processes together, so to have read those of a step is
    to know that all have started it: whoever asks here after ``done`` steps knows that of step
    ``done - ahead - 1``, and the others know no less of us. After ``done + ahead + 2`` steps
    everybody finds the note. No device waits for this.
    """
    if jax.process_count() == 1:
        return wanted
    note = agree.read_note(name)
    if note is None and wanted:
        agree.leave_note(name, str(done + ahead + 2))
        note = agree.read_note(name)
    return note is not None and done >= int(note)
