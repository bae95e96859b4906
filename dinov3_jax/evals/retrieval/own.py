"""``retrieval``: queries and a database of one's own, mAP and recall at k."""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.retrieval import open_retrieval
from dinov3_jax.data.bicubic import letterbox
from dinov3_jax.data.record import SourceError
from dinov3_jax.evals.evaluation import Result
from dinov3_jax.evals.retrieval.embed import embedder
from dinov3_jax.evals.retrieval.gallery import RESULTS, gallery
from dinov3_jax.evals.retrieval.metrics import (
    Query,
    average_precision,
    positive_ranks,
    rankings,
)
from dinov3_jax.features.extract import check_side
from dinov3_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class RetrievalSettings:
    data: str  # folder with queries/ and database/: of classes, or with a pairs.csv
    size: int = 224  # pixels of the long side, and of the square that the rest is filled up to
    scales: tuple[float, ...] = (1.0,)  # at which CLS is averaged; (1.0, 0.7071, 0.5) multi-scale
    k: tuple[int, ...] = (1, 5, 10)  # recall at k: a positive is among the first k
    batch: int = 64  # images


def evaluate(model: Model, settings: RetrievalSettings, mesh: Mesh) -> Result:
    """``map``, ``recall@k`` in percent, ``queries`` counted and ``skipped`` for want of positives.

    A k above the size of the database has no metric: every query would succeed.
    """
    check_side(model, settings.size, "size")
    if not settings.k or min(settings.k) < 1:
        raise ConfigError(f"k is {settings.k}, wanted at least one number, each from 1 on")
    data = open_retrieval(settings.data)
    if not any(len(rows) for rows in data.positives):
        raise SourceError(
            f"none of {len(data.queries)} queries of {settings.data} has a positive: no class of "
            "queries/ is in database/; name the folders alike in both"
        )
    embed = embedder(model, mesh, scales=settings.scales, batch=settings.batch)

    def descriptors(images):
        return embed(lambda i: letterbox(images[i], settings.size), len(images))

    queries, database = descriptors(data.queries), descriptors(data.database)
    truth = [Query(rows, np.array([], int)) for rows in data.positives]
    k = tuple(n for n in settings.k if n <= len(data.database))
    metrics, precision, first = score(rankings(queries, database), truth, k=k)
    pictures = gallery(data.queries.__getitem__, data.database.__getitem__, first, truth, precision)
    return Result(metrics, pictures)


def score(
    orders: Iterable[np.ndarray], truth: list[Query], *, k: tuple[int, ...]
) -> tuple[dict[str, float], np.ndarray, list[np.ndarray]]:
    """(metrics, average precision [q] or NaN, the first few results of each query).

    ``orders`` are whole rankings, int [n], read once, one after the other.
    """
    precision = np.full(len(truth), np.nan)
    best = np.full(len(truth), np.nan)  # rank of the first positive
    first = []
    for i, (order, query) in enumerate(zip(orders, truth, strict=True)):
        first.append(order[:RESULTS])
        if len(query.positives):
            ranks = positive_ranks(order, query)
            precision[i] = average_precision(ranks, len(query.positives), trapezoid=False)
            best[i] = ranks[0]
    known = ~np.isnan(best)
    metrics = {"map": 100 * float(precision[known].mean())}
    metrics |= {f"recall@{n}": 100 * float((best[known] < n).mean()) for n in k}
    metrics |= {"queries": float(known.sum()), "skipped": float((~known).sum())}
    return metrics, precision, first
