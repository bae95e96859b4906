"""``amstertime``: the same place in archive photographs and today's, searched both ways.

Source: Yildiz et al., arXiv 2203.16291; DINOv3 appendix D.8.
"""

import dataclasses

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.data.benchmarks.amstertime import open_amstertime
from dinov3_jax.data.centre_crop import centre_crop
from dinov3_jax.evals.evaluation import Result
from dinov3_jax.evals.retrieval.embed import embedder
from dinov3_jax.evals.retrieval.gallery import gallery
from dinov3_jax.evals.retrieval.metrics import Query, average_precisions, rankings
from dinov3_jax.features.extract import check_side
from dinov3_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class AmsterTimeSettings:
    data: str  # folder with old/ and new/
    resize: int = 256  # pixels of the short side ...
    crop: int = 224  # ... of which the centre is taken
    scales: tuple[float, ...] = (1.0,)  # at which CLS is averaged
    batch: int = 64  # images


def evaluate(model: Model, settings: AmsterTimeSettings, mesh: Mesh) -> Result:
    """``map`` over the queries of both directions, and ``map_old_to_new``, ``map_new_to_old``."""
    check_side(model, settings.crop, "crop")
    data = open_amstertime(settings.data)
    embed = embedder(model, mesh, scales=settings.scales, batch=settings.batch)

    def descriptors(images):
        return embed(
            lambda i: centre_crop(images[i], resize=settings.resize, crop=settings.crop),
            len(images),
        )

    old, new = descriptors(data.old), descriptors(data.new)
    orders = [list(rankings(a, b)) for a, b in ((old, new), (new, old))]
    metrics, precision = score(*orders)
    pictures = gallery(
        data.old.__getitem__, data.new.__getitem__, orders[0], _same_row(orders[0]), precision[0]
    )
    return Result(metrics, pictures)


def score(
    old_to_new: list[np.ndarray], new_to_old: list[np.ndarray]
) -> tuple[dict[str, float], list[np.ndarray]]:
    """(metrics, average precision [n] of each direction) of whole rankings [n] of int [n].

    Row i of both shows one place, so that the average precision of a query is 1 / its place.
    """
    precision = [
        average_precisions(orders, _same_row(orders), trapezoid=False)
        for orders in (old_to_new, new_to_old)
    ]
    means = [100 * float(x.mean()) for x in (np.concatenate(precision), *precision)]
    return dict(zip(("map", "map_old_to_new", "map_new_to_old"), means)), precision


def _same_row(orders):
    return [Query(np.array([i]), np.array([], int)) for i in range(len(orders))]
