"""Files of benchmarks: what is in a folder, lines of a list, or why not."""

import os

from dinov3_jax.data.record import SourceError


def listed(folder: str, layouts: str) -> list[str]:
    """Sorted names in ``folder``, hidden ones left out; an error quotes ``layouts``, the wanted."""
    if not os.path.isdir(folder):
        raise SourceError(f"there is no folder {folder}; wanted one of these layouts:\n{layouts}")
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def read_lines(path: str, wanted: str) -> list[str]:
    """Lines of a text file, stripped, empty ones left out."""
    try:
        with open(path, encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read ({error}); wanted {wanted}") from None
