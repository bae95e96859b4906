"""VOC 2007: images with several labels, one logistic regression a class.

One C for all classes, chosen on val by the mean average precision, then fitted on train and val
together. The score is that of the 2007 challenge, the 11-point average precision; it is one of the
twelve of DINOv3's fine-grained suite (arXiv 2508.10104), which takes CLS at 512 pixels.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.voc07 import open_voc07
from dinov3_jax.evals.classification.features import split_features
from dinov3_jax.evals.classification.logistic import GRID, Fit, fit_one
from dinov3_jax.evals.classification.metrics import average_precision, eleven_point, multilabel
from dinov3_jax.evals.classification.pictures import chart, false_alarms
from dinov3_jax.evals.evaluation import Result
from dinov3_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class Voc07Settings:
    data: str  # the folder VOC2007; data/benchmarks/voc07.py
    resize: int = 512  # pixels of the short side, bicubic
    crop: int = 512  # pixels, the centre
    C: tuple[float, ...] | None = None  # values tried; None: the 45 of logistic.GRID
    max_iter: int = 1000  # of L-BFGS
    tol: float = 1e-12  # of L-BFGS
    batch: int = 64  # images a forward


def evaluate(model: Model, settings: Voc07Settings, mesh: Mesh) -> Result:
    """``map``: the mean over classes of the 11-point average precision on test, percent;
    ``average_precision``: of the area under the curve; ``val_map`` and ``C`` of the choice;
    ``unfinished``: fits out of all that ``max_iter`` ended."""
    data = open_voc07(settings.data)
    train, val, test = (
        split_features(
            model, mesh, split, resize=settings.resize, crop=settings.crop, batch=settings.batch
        ).astype(np.float64)
        for split in (data.train, data.val, data.test)
    )
    values = sorted(GRID if settings.C is None else settings.C)
    if not values or values[0] <= 0:
        raise ConfigError(f"C is {settings.C}, wanted some values, all positive")
    limits = {"max_iter": settings.max_iter, "tol": settings.tol}
    tried = [fit(train, data.train.labels, C, **limits) for C in values]
    found = [multilabel(decide(x, val), data.val.labels, metric=eleven_point) for x in tried]
    best = int(np.argmax(found))
    both = np.concatenate([train, val])
    labels = np.concatenate([data.train.labels, data.val.labels])
    final = fit(both, labels, values[best], **limits)
    scores = decide(final, test)
    drawn = false_alarms(scores, data.test.labels, data.classes, data.test.image)
    if len(values) > 1:
        caption = "Mean 11-point average precision by C, on val"
        drawn = (chart(values, {"val": found}, caption=caption, x="C", y="mAP, %"), *drawn)
    return Result(
        {
            "map": multilabel(scores, data.test.labels, metric=eleven_point),
            "average_precision": multilabel(scores, data.test.labels, metric=average_precision),
            "val_map": found[best],
            "C": values[best],
            "unfinished": float(sum(one.unfinished for fits in (*tried, final) for one in fits)),
        },
        drawn,
    )


def fit(features, labels, C: float, *, max_iter: int, tol: float) -> list[Fit]:
    """One ``LogisticRegression`` a class, present against absent; labels -1 are left out.

    features float64 [n, D], labels int [n, K] in {1, 0, -1}. Raises ``ConfigError`` for a class
    that is in all images or in none.
    """
    fits = []
    for c in range(labels.shape[1]):
        counted = labels[:, c] >= 0
        present = labels[counted, c]
        if len(np.unique(present)) < 2:
            raise ConfigError(
                f"class {c} is in {int(present.sum())} of {len(present)} images, wanted some with "
                "and some without"
            )
        fits.append(fit_one(features[counted], present, C, max_iter=max_iter, tol=tol))
    return fits


def decide(fits: Sequence[Fit], features) -> np.ndarray:
    """Log-odds of each class, float64 [n, K]."""
    return np.stack([one.classifier.decision_function(features) for one in fits], axis=1)
