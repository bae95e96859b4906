"""Approximate nearest neighbours by an inverted file of Faiss, on the cores of one host."""

import math
from typing import Any

import numpy as np

from dinov3_jax.config import ConfigError
from dinov3_jax.curation.stream import check_search, read

ROWS = 1 << 16  # read, added or searched at once
TRAINED = 64  # pool rows a list from which the lists' centres are learned


def nearest_approximate(
    queries, pool, k: int, *, probes: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar rows of ``pool`` among those in the ``probes`` lists nearest to a query.

    The pool is shared out over ``4 sqrt(n)`` lists (at most n / 39), each row to the nearest of as
    many centres that k-means finds in a sample. Of the lists' rows the cosines are exact. A query
    whose lists hold fewer than k rows is compared with all of the pool. Faiss keeps the pool in
    memory, 4 n D bytes.

    Args:
      queries: [q, D] float, array or ``np.memmap``.
      pool: [n, D] float, likewise.
      k: neighbours, 1 to n.
      probes: lists a query, at least 1; as many as there are lists, or more, is an exact search.
      seed: of the sample and the start of k-means.

    Returns:
      (index [q, k] int32, cosine [q, k] float32), similarity falling along k.

    Raises:
      ValueError: probes below 1; as ``neighbours.nearest``.
      ConfigError: Faiss is not installed.
    """
    check_search(queries, pool, k)
    if probes < 1:
        raise ValueError(f"probes is {probes}, wanted at least 1 list")
    return search(build(pool, seed=seed), queries, k, probes=probes)


def build(pool, *, seed: int = 0) -> Any:
    """The ``faiss.IndexIVFFlat`` of ``nearest_approximate``."""
    faiss = _import_faiss()
    n, D = pool.shape
    lists = max(1, min(round(4 * math.sqrt(n)), n // 39))  # fewer rows a list Faiss warns of
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(D), D, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.spherical = seed, True
    index.cp.max_points_per_centroid = TRAINED
    sample = np.random.default_rng(seed).choice(n, min(n, TRAINED * lists), replace=False)
    index.train(_unit(read("pool", pool, np.sort(sample))))
    for start in range(0, n, ROWS):
        index.add(_unit(read("pool", pool, slice(start, start + ROWS))))
    return index


def search(index, queries, k: int, *, probes: int) -> tuple[np.ndarray, np.ndarray]:
    """What ``nearest_approximate`` returns, of an index that ``build`` made."""
    found = np.empty((len(queries), k), np.int32)
    cosine = np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), ROWS):
        rows = _unit(read("queries", queries, slice(start, start + ROWS)))
        index.nprobe = min(probes, index.nlist)
        value, row = index.search(rows, k)
        short = np.flatnonzero((row < 0).any(axis=1))
        if len(short):
            index.nprobe = index.nlist
            value[short], row[short] = index.search(rows[short], k)
        found[start : start + len(rows)], cosine[start : start + len(rows)] = row, value
    return found, cosine


def _unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "approximate search needs Faiss, which is not here: pip install 'dinov3_jax[index]', "
            "or search exactly (probes None)"
        ) from error
    return faiss
