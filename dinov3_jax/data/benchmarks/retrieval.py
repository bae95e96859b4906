"""Queries and a database of one's own: class folders, or a list of pairs."""

import csv
import dataclasses
import os

import numpy as np

from dinov3_jax.data.benchmarks.images import Images, list_images, open_root
from dinov3_jax.data.record import SourceError

LAYOUT = """wanted
  queries/CLASS/*.jpg and database/CLASS/*.jpg, where a query is to find the images of its class; or
  queries/, database/ and pairs.csv with the columns query,positive: paths below these two folders,
  a line for each image that a query is to find"""


@dataclasses.dataclass(frozen=True, eq=False)
class Retrieval:
    queries: Images
    database: Images
    positives: tuple[np.ndarray, ...]  # [q] of int, rows of ``database``; may be empty


def open_retrieval(path: str) -> Retrieval:
    """The data in folder ``path``; with a ``pairs.csv`` the queries are those it names."""
    root = open_root(path, ("queries", "database"), LAYOUT)
    queries, database = (list_images(root / name) for name in ("queries", "database"))
    if (root / "pairs.csv").is_file():
        return _of_pairs(root / "pairs.csv", queries, database)
    for name, images in (("queries", queries), ("database", database)):
        loose = [file for file in images.files if not os.path.dirname(file)]
        if loose:
            raise SourceError(
                f"{name}/{loose[0]} is in no class folder, and there is no pairs.csv; {LAYOUT}"
            )
    classes = np.array([_class(file) for file in database.files])
    positives = [np.flatnonzero(classes == _class(file)) for file in queries.files]
    return Retrieval(queries, database, tuple(positives))


def _class(file: str) -> str:
    return os.path.basename(os.path.dirname(file))


def _of_pairs(file, queries, database) -> Retrieval:
    rows = [{name: i for i, name in enumerate(images.files)} for images in (queries, database)]
    found: dict[str, list[int]] = {}
    with file.open(newline="") as lines:
        reader = csv.DictReader(lines)
        if not {"query", "positive"} <= set(reader.fieldnames or ()):
            raise SourceError(f"{file} has the columns {reader.fieldnames}; {LAYOUT}")
        for line in reader:
            query, positive = line["query"], line["positive"]
            for name, there, folder in zip((query, positive), rows, ("queries", "database")):
                if name not in there:
                    raise SourceError(
                        f"{file}, line {reader.line_num}: there is no image {folder}/{name}"
                    )
            found.setdefault(query, []).append(rows[1][positive])
    if not found:
        raise SourceError(f"{file} has no pairs; {LAYOUT}")
    positives = tuple(np.unique(matches) for matches in found.values())
    return Retrieval(Images(queries.root, tuple(found)), database, positives)
