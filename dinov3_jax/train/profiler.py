"""One profiler window of a run."""

import contextlib

import jax


@contextlib.contextmanager
def profiler(config, workdir):
    """One profiler window, written to ``workdir/profile``; ended early if the run ends in it.

    Of several processes the first one shows its devices.
    """
    first = config.log.profile_start if jax.process_index() == 0 else None
    last = None
    if first is not None:
        last = first + config.log.profile_steps

    class Window:
        running = False

        @classmethod
        def before(cls, step):
            if step == first:
                jax.profiler.start_trace(str(workdir / "profile"))
                cls.running = True
            elif step == last and cls.running:
                jax.profiler.stop_trace()
                cls.running = False

    try:
        yield Window
    finally:
        if Window.running:
            jax.profiler.stop_trace()
