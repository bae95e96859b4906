"""What all benchmarks print: a heading that says on what, and Markdown tables."""

import importlib.metadata
import pathlib
import platform
import re
from collections.abc import Sequence


def heading(device: str, *packages: str) -> str:
    """``device``, then the versions of ``packages`` and of Python."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join([device, *versions, f"Python {platform.python_version()}"])


def jax_devices() -> str:
    """How many of which device jax computes on; of a CPU the processor's own name."""
    import jax  # not above: a process that measures something else does not load it

    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {processor() if kind == 'cpu' else kind}"


def processor() -> str:
    """The model of this machine's CPU."""
    info = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, rule, *rows))
