"""What one of several processes does to evaluate all that tests/evals/tiny_suite.py has.

``python -m tests.distributed.suite_worker SUITE.json --coordinator=... --process_count=... ...``
"""

import argparse
import json
import pathlib

from dinov3_jax.cli import hosts
from dinov3_jax.distributed import agree


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("suite", type=pathlib.Path)
    hosts.add_flags(parser)
    options = parser.parse_args()
    hosts.join(options)
    from tests.distributed import worker
    from tests.train import saved  # asks for devices, which is too early above

    for name, data, settings in json.loads(options.suite.read_text()):
        suite = ((name, data, tuple(settings)),)
        worker.evaluate(saved.small_config(), saved.state_at, suite)
        print(f"{name} is the same", flush=True)
    agree.barrier("the end")


if __name__ == "__main__":
    main()
