"""Log lines of the command line."""

import logging

import absl.logging


def set_up(process: int = 0) -> None:
    """To stderr; of several processes the first one tells all, the others what is wrong."""
    name = f" [process {process}]" if process else ""
    logging.basicConfig(
        level=logging.WARNING if process else logging.INFO,
        format=f"%(asctime)s %(levelname).1s{name} %(message)s",
        datefmt="%H:%M:%S",
        force=True,  # a library below us may have put a handler of its own in place
    )
    # Two layers below us log every file and every backend that is absent.
    absl.logging.set_verbosity(absl.logging.WARNING)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
