"""``copydays``: which photograph a strongly attacked copy was made from.

Descriptor: CLS and the GeM of the patches side by side, whitened. Protocol of DINO (Caron et al.,
arXiv 2104.14294), whose whitening saw 20,000 images of YFCC100M and whose database had 10,000 of
its distractors.
"""

import dataclasses

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.copydays import open_copydays
from dinov3_jax.data.benchmarks.images import Images, list_images
from dinov3_jax.data.bicubic import resize
from dinov3_jax.evals.evaluation import Result
from dinov3_jax.evals.retrieval.embed import embedder
from dinov3_jax.evals.retrieval.gallery import gallery
from dinov3_jax.evals.retrieval.metrics import (
    Query,
    average_precision,
    positive_ranks,
    rankings,
)
from dinov3_jax.features.extract import check_side
from dinov3_jax.features.whitening import fit_whitening, whiten
from dinov3_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class CopydaysSettings:
    data: str  # folder with original/ and strong/
    whitening: str = ""  # folder of other images that whitening is learned from; "none" without
    distractors: str = ""  # folder of other images in the database; "none" without
    size: int = 320  # pixels a side, whatever the aspect
    gem: float = 4.0  # power of the generalised mean over patches
    top: int = 20  # results of a query; an original below them counts as not found
    batch: int = 64  # images


def evaluate(model: Model, settings: CopydaysSettings, mesh: Mesh) -> Result:
    """``map`` of the strong copies in percent; ``database`` and ``whitening`` count images."""
    check_side(model, settings.size, "size")
    if settings.top < 1 or settings.gem <= 0:
        raise ConfigError(f"top is {settings.top}, gem {settings.gem}; wanted both above 0")
    data = open_copydays(settings.data)
    others, learn = _folder(settings, "distractors"), _folder(settings, "whitening")

    embed = embedder(model, mesh, gem=settings.gem, batch=settings.batch)

    def descriptors(images: Images):
        return embed(lambda i: resize(images[i], settings.size, settings.size), len(images))

    queries, database = descriptors(data.strong), descriptors(data.originals)
    if others is not None:
        database = np.concatenate([database, descriptors(others)])
    if learn is not None:
        known = descriptors(learn)
        # As many directions as the images can show, D at most.
        whitening = fit_whitening(known, min(known.shape[1], max(1, len(known) - 1)))
        queries, database = whiten(whitening, queries), whiten(whitening, database)
    orders = [order[: settings.top] for order in rankings(queries, database)]
    precision = score(orders, data.original_of)
    metrics = {
        "map": 100 * float(precision.mean()),
        "database": float(len(database)),
        "whitening": 0.0 if learn is None else float(len(learn)),
    }

    def image(row):
        own = len(data.originals)
        return data.originals[row] if row < own or others is None else others[row - own]

    truth = [Query(np.array([row]), np.array([], int)) for row in data.original_of]
    return Result(metrics, gallery(data.strong.__getitem__, image, orders, truth, precision))


def score(orders: list[np.ndarray], original_of: np.ndarray) -> np.ndarray:
    """Trapezoidal average precision [q] of results [q] of int [top]; 0 where the original, row
    ``original_of`` [q], is not among them."""
    precision = []
    for order, row in zip(orders, original_of, strict=True):
        ranks = positive_ranks(order, Query(np.array([row]), np.array([], int)))
        precision.append(average_precision(ranks, 1, trapezoid=True))
    return np.array(precision)


def _folder(settings: CopydaysSettings, key: str) -> Images | None:
    folder = getattr(settings, key)
    if folder == "none":
        return None
    if not folder:
        raise ConfigError(
            f"{key} is not given; set it to a folder of images of no other part of the benchmark "
            '(the protocol takes some of YFCC100M), or to "none" for another number than the '
            "published one"
        )
    return list_images(folder)
