"""Scores of rankings: average precision, recall at k, GAP. Pure numpy; ranks count from 0."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dinov3_jax.config import ConfigError

CHUNK = 1 << 26  # similarities held at once: 256 MiB


class Query(NamedTuple):
    positives: np.ndarray  # int, database rows to be found
    junk: np.ndarray  # int, database rows that count neither way


def rankings(queries: np.ndarray, database: np.ndarray) -> Iterator[np.ndarray]:
    """Of each query [D] all database rows, int [n], by falling cosine; the lower row on a tie.

    queries [q, D] and database [n, D] float. The ranking is whole, as average precision needs it:
    sorting on the host takes longer than the product, so that no device would gain anything.
    """
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"queries are {list(queries.shape)}, the database {list(database.shape)}; wanted "
            "[q, D] and [n, D]"
        )
    if not len(queries) or not len(database):
        raise ValueError(
            f"{len(queries)} queries and {len(database)} database images; wanted at least 1 of each"
        )
    database = unit(database)
    rows = max(1, CHUNK // len(database))
    for start in range(0, len(queries), rows):
        for cosine in unit(queries[start : start + rows]) @ database.T:  # [n]
            yield np.argsort(-cosine, kind="stable")


def positive_ranks(order: np.ndarray, query: Query) -> np.ndarray:
    """Ascending ranks of the positives in ``order`` int [n], as if junk were not there."""
    order = order[~np.isin(order, query.junk)]
    return np.flatnonzero(np.isin(order, query.positives))


def average_precision(ranks: np.ndarray, positives: int, *, trapezoid: bool) -> float:
    """Area under precision over recall of one query, 0 to 1.

    With precision p_j = (j + 1) / (r_j + 1) at the j-th of ``ranks`` r, ascending:
    sum_j p_j / positives. ``trapezoid``: p_j is averaged with the precision just before,
    j / r_j, or 1 where r_j = 0, as Revisited Oxford and Paris and Copydays have it. ``positives``
    counts those that were not found, too.
    """
    ranks = np.asarray(ranks, np.float64)
    if positives < 1 or len(ranks) > positives:
        raise ValueError(f"{len(ranks)} ranks of {positives} positives; wanted at least 1 positive")
    found = np.arange(len(ranks))
    precision = (found + 1) / (ranks + 1)
    if trapezoid:
        before = np.divide(found, ranks, out=np.ones_like(ranks), where=ranks > 0)
        precision = (precision + before) / 2
    return float(precision.sum() / positives)


def average_precisions(
    orders: Iterable[np.ndarray], queries: Sequence[Query], *, trapezoid: bool
) -> np.ndarray:
    """``average_precision`` of each query, float [q]; NaN for one without positives.

    Raises ``ConfigError`` where no query has any.
    """
    precision = np.full(len(queries), np.nan)
    for i, (order, query) in enumerate(zip(orders, queries, strict=True)):
        if len(query.positives):
            ranks = positive_ranks(order, query)
            precision[i] = average_precision(ranks, len(query.positives), trapezoid=trapezoid)
    if np.isnan(precision).all():
        raise ConfigError(
            f"none of {len(queries)} queries has a positive in the database; a mean over none "
            "means nothing"
        )
    return precision


def global_average_precision(
    correct: np.ndarray, confidence: np.ndarray, known: np.ndarray
) -> float:
    """GAP (micro-AP) of one prediction a query, 0 to 1.

    All queries sorted by falling confidence: sum_i precision_i correct_i / number of known ones.
    A query whose object is unknown (a distractor) is never correct, so that it costs precision at
    its place; leave distractors out for GAP-.

    Args:
      correct: bool [q].
      confidence: float [q]; among equals the earlier query comes first.
      known: bool [q], the object is in the database.
    """
    if not known.any():
        raise ConfigError(f"none of {len(known)} queries has an object of the database")
    order = np.argsort(-np.asarray(confidence, np.float64), kind="stable")
    hits = (correct & known)[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / known.sum())


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; a row of zeros stays."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
