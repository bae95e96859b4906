"""INRIA Copydays: photographs, and copies of them that were attacked by hand."""

import dataclasses
import os

import numpy as np

from dinov3_jax.data.benchmarks.images import Images, list_images, open_root
from dinov3_jax.data.record import SourceError

LAYOUT = """wanted
  original/XXXX00.jpg and strong/XXXXNN.jpg, where equal XXXX means the same photograph
Both come from the project page of the INRIA Holidays and Copydays data sets."""
PREFIX = 4  # characters of a name that say which photograph it is


@dataclasses.dataclass(frozen=True, eq=False)
class Copydays:
    originals: Images
    strong: Images
    original_of: np.ndarray  # int [strong], row of ``originals``


def open_copydays(path: str) -> Copydays:
    """The benchmark in folder ``path``; ``SourceError`` for a copy without its original."""
    root = open_root(path, ("original", "strong"), LAYOUT)
    originals, strong = (list_images(root / name) for name in ("original", "strong"))
    rows = {os.path.basename(file)[:PREFIX]: row for row, file in enumerate(originals.files)}
    if len(rows) < len(originals):
        raise SourceError(f"{root / 'original'} has a photograph twice; {LAYOUT}")
    names = [os.path.basename(file)[:PREFIX] for file in strong.files]
    lost = [name for name in names if name not in rows]
    if lost:
        raise SourceError(f"{root / 'strong'}: {lost[0]} has no original; {LAYOUT}")
    return Copydays(originals, strong, np.array([rows[name] for name in names]))
