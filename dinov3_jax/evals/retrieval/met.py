"""``met``: which exhibit of a museum a photograph shows, or none.

Whitened CLS descriptors, a k-NN classifier with a confidence, scored by GAP. Source: Ypsilantis et
al., The Met Dataset (NeurIPS 2021, arXiv 2202.01747); DINOv3 appendix D.8.
"""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.curation.neighbours import nearest
from dinov3_jax.data.benchmarks.met import open_met
from dinov3_jax.data.bicubic import on_grid
from dinov3_jax.evals.evaluation import Result
from dinov3_jax.evals.retrieval.embed import embedder
from dinov3_jax.evals.retrieval.gallery import gallery
from dinov3_jax.evals.retrieval.metrics import Query, global_average_precision
from dinov3_jax.features.whitening import fit_whitening, whiten
from dinov3_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class MetSettings:
    data: str  # folder with images/, MET_database.json, valset.json, testset.json
    database: str = "MET_database.json"  # or mini_MET_database.json
    longest: int = 512  # pixels of the long side at most; each side goes to the nearest patch
    dims: int = 512  # that whitening keeps; the width of the model where that is less
    scales: tuple[float, ...] = (1.0,)  # at which CLS is averaged
    k: tuple[int, ...] = (1, 2, 3, 5, 7, 10, 15, 20, 50)  # neighbours, chosen on val
    t: tuple[float, ...] = (  # inverse temperature, chosen on val
        0.01, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 100.0, 500.0,
    )  # fmt: skip
    batch: int = 64  # images


class Found(NamedTuple):
    """The K nearest database images of each query, nearest first."""

    labels: np.ndarray  # int [q, K], their exhibits
    cosine: np.ndarray  # float [q, K]


def evaluate(model: Model, settings: MetSettings, mesh: Mesh) -> Result:
    """``gap``, ``gap_minus``, ``acc`` of the test queries in percent; the chosen ``k`` and ``t``,
    their ``val_gap``, and the ``dims`` after whitening.

    k above the size of the database is left out of the grid.
    """
    if not settings.k or min(settings.k) < 1 or not settings.t or settings.dims < 1:
        raise ConfigError(
            f"k {settings.k}, t {settings.t}, dims {settings.dims}; wanted some, >= 1"
        )
    data = open_met(settings.data, database=settings.database)
    embed = embedder(model, mesh, scales=settings.scales, batch=settings.batch)

    def descriptors(images):
        return embed(
            lambda i: on_grid(images[i], settings.longest, stride=model.stride), len(images)
        )

    raw = descriptors(data.database.images)
    dims = min(settings.dims, raw.shape[1])
    whitening = fit_whitening(raw, dims)
    database, val, test = (
        whiten(whitening, x)
        for x in (raw, descriptors(data.val.images), descriptors(data.test.images))
    )
    ks = tuple(k for k in settings.k if k <= len(database)) or (len(database),)
    classes = len(np.unique(data.database.labels))

    def search(queries):
        rows, cosine = nearest(queries, database, max(ks), mesh=mesh)
        return rows, Found(data.database.labels[rows], cosine)

    (_, found_val), (rows, found) = search(val), search(test)
    metrics, (k, t) = score(
        found_val, data.val.labels, found, data.test.labels, classes=classes, ks=ks, ts=settings.t
    )
    predicted, confidence = predict(found, classes, k, t)
    # As a ranking: right answers come first, the surer the better; wrong and sure come last.
    known = data.test.labels >= 0
    sure = np.where(known, np.where(predicted == data.test.labels, confidence, -confidence), np.nan)
    truth = [
        Query(np.flatnonzero(data.database.labels == label), np.array([], int))
        for label in data.test.labels
    ]
    pictures = gallery(
        data.test.images.__getitem__,
        data.database.images.__getitem__,
        list(rows),
        truth,
        sure,
        what="signed confidence",
    )
    return Result(metrics | {"dims": float(dims)}, pictures)


def score(
    found_val: Found,
    val: np.ndarray,
    found: Found,
    test: np.ndarray,
    *,
    classes: int,
    ks: tuple[int, ...],
    ts: tuple[float, ...],
) -> tuple[dict[str, float], tuple[int, float]]:
    """(metrics of the test, the chosen (k, t)): the pair of best GAP on val, the first of equals.

    ``val`` and ``test`` int [q] are the true exhibits, -1 a distractor.
    """

    def gap(found, labels, k, t, *, distractors=True):
        predicted, confidence = predict(found, classes, k, t)
        kept = np.ones(len(labels), bool) if distractors else labels >= 0
        hits = predicted == labels
        return 100 * global_average_precision(hits[kept], confidence[kept], (labels >= 0)[kept])

    grid = list(itertools.product(ks, ts))
    scores = [gap(found_val, val, k, t) for k, t in grid]
    k, t = grid[int(np.argmax(scores))]
    predicted, _ = predict(found, classes, k, t)
    known = test >= 0
    metrics = {
        "gap": gap(found, test, k, t),
        "gap_minus": gap(found, test, k, t, distractors=False),
        "acc": 100 * float((predicted == test)[known].mean()),
        "val_gap": max(scores),
        "k": float(k),
        "t": float(t),
    }
    return metrics, (k, t)


def predict(found: Found, classes: int, k: int, t: float) -> tuple[np.ndarray, np.ndarray]:
    """(class int [q], confidence [q]) of each query by its k nearest neighbours.

    A class among them scores s, the largest cosine of its images, any other one 0. The class of
    largest s wins; its confidence is exp(t s) / sum over all ``classes`` of exp(t score).
    """
    labels, cosine = found.labels[:, :k], np.asarray(found.cosine[:, :k], np.float64)
    # The first of a class has its largest cosine; the later ones do not count.
    earlier = np.tril(np.ones((k, k), bool), -1)
    first = ~((labels[:, :, None] == labels[:, None, :]) & earlier).any(axis=2)  # [q, k]
    # Relative to the nearest, so that no exp of a large t overflows: its own weight is 1.
    weights = np.where(first, np.exp(t * (cosine - cosine[:, :1])), 0.0)
    absent = (classes - first.sum(axis=1)) * np.exp(-t * cosine[:, 0])
    return labels[:, 0], 1 / (weights.sum(axis=1) + absent)
