"""Points that show the same thing in two images: a list of one's own."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np

from dinov3_jax.data.record import SourceError

COLUMNS = ("image_a", "image_b", "xa", "ya", "xb", "yb")
LAYOUT = f"""wanted a CSV file with the columns
  {",".join(COLUMNS)}
a line a point: two images, by paths below the folder of the file, and where the point is in each,
in pixels from the top left corner"""


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    a: Path
    b: Path
    points_a: np.ndarray  # float64 [k, 2], x and y in pixels
    points_b: np.ndarray  # float64 [k, 2], where the same points are in the other image


def write_matches(path: Path, pair: Pair) -> None:
    """The CSV file that ``open_matches`` reads, of one pair, whose paths are absolute in it."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for a, b in zip(pair.points_a.tolist(), pair.points_b.tolist(), strict=True):
            rows.writerow((pair.a.absolute(), pair.b.absolute(), *a, *b))


def open_matches(path: str) -> tuple[Pair, ...]:
    """The pairs of images of the CSV file ``path``, in the order of their first lines."""
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise SourceError(f"there is no file {file}; {LAYOUT}")
    found: dict[tuple[str, str], list[list[float]]] = {}
    with file.open(newline="") as lines:
        reader = csv.DictReader(lines)
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise SourceError(f"{file} has the columns {reader.fieldnames}; {LAYOUT}")
        for line in reader:
            try:
                numbers = [float(line[name]) for name in COLUMNS[2:]]
            except (TypeError, ValueError) as error:
                raise SourceError(f"{file}, line {reader.line_num}: {error}; {LAYOUT}") from error
            if not all(map(math.isfinite, numbers)):
                raise SourceError(f"{file}, line {reader.line_num}: {numbers} are not all finite")
            found.setdefault((line["image_a"], line["image_b"]), []).append(numbers)
    if not found:
        raise SourceError(f"{file} has no points; {LAYOUT}")
    return tuple(
        Pair(file.parent / a, file.parent / b, *np.split(np.array(points), 2, axis=1))
        for (a, b), points in found.items()
    )
