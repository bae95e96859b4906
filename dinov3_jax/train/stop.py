"""Signals that end a run in good order."""

import contextlib
import signal


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
