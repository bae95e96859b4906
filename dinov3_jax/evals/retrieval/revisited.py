"""``oxford``: mAP on Revisited Oxford or Revisited Paris, Medium and Hard.

Medium: easy and hard images are to be found, junk is left out. Hard: the hard ones alone, easy
images and junk are left out. Source: Radenovic et al., arXiv 1803.11285; DINOv3 appendix D.8.
"""

import dataclasses

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.data.benchmarks.revisited import Revisited, open_revisited
from dinov3_jax.data.bicubic import letterbox
from dinov3_jax.data.record import SourceError
from dinov3_jax.evals.evaluation import Result
from dinov3_jax.evals.retrieval.embed import embedder
from dinov3_jax.evals.retrieval.gallery import gallery
from dinov3_jax.evals.retrieval.metrics import Query, average_precisions, rankings
from dinov3_jax.features.extract import check_side
from dinov3_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class OxfordSettings:
    data: str  # folder with gnd_*.pkl and jpg/
    size: int = 224  # pixels of the long side, and of the square that the rest is filled up to
    crop_queries: bool = True  # a query shows its object alone, cut out by its box
    scales: tuple[float, ...] = (1.0,)  # at which CLS is averaged; (1.0, 0.7071, 0.5) multi-scale
    batch: int = 64  # images


def evaluate(model: Model, settings: OxfordSettings, mesh: Mesh) -> Result:
    """``map_medium``, ``map_hard`` in percent; a level at which no query has a positive is left
    out. Queries without positives do not count."""
    check_side(model, settings.size, "size")
    data = open_revisited(settings.data)

    def query(i):
        image = data.queries[i]
        return _cut(image, data.boxes[i], data.queries.files[i]) if settings.crop_queries else image

    embed = embedder(model, mesh, scales=settings.scales, batch=settings.batch)
    queries = embed(lambda i: letterbox(query(i), settings.size), len(data.queries))
    database = embed(lambda i: letterbox(data.database[i], settings.size), len(data.database))
    orders = list(rankings(queries, database))
    metrics, precision = score(data, orders)
    medium = levels(data)["medium"]
    pictures = gallery(query, data.database.__getitem__, orders, medium, precision["medium"])
    return Result(metrics, pictures)


def score(
    data: Revisited, orders: list[np.ndarray]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """(metrics, average precision [q] of each level) of whole rankings [q] of int [n]."""
    precision = {
        level: average_precisions(orders, queries, trapezoid=True)
        for level, queries in levels(data).items()
        if any(len(query.positives) for query in queries)
    }
    if "medium" not in precision:
        raise SourceError("no query has an easy or hard image to find; get the list again")
    means = {f"map_{level}": 100 * float(np.nanmean(x)) for level, x in precision.items()}
    return means, precision


def levels(data: Revisited) -> dict[str, list[Query]]:
    """What each query is to find at each level."""
    triples = list(zip(data.easy, data.hard, data.junk))
    return {
        "medium": [Query(np.concatenate([easy, hard]), junk) for easy, hard, junk in triples],
        "hard": [Query(hard, np.concatenate([junk, easy])) for easy, hard, junk in triples],
    }


def _cut(image, box, name):
    x0, y0, x1, y1 = np.round(box).astype(int).tolist()
    part = image[max(y0, 0) : y1, max(x0, 0) : x1]
    if not part.size:
        raise SourceError(
            f"the box {[x0, y0, x1, y1]} lies outside {name} of {image.shape[0]} x "
            f"{image.shape[1]} pixels; list and images do not belong together"
        )
    return part
