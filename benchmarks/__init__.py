"""Measurements, each run as ``python -m benchmarks.NAME``."""

import time

STARTED = time.perf_counter()  # before the imports of any of them
