"""Logistic regression on frozen features, its strength chosen on held-out images."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.classification import open_classification
from dinov3_jax.evals.classification import few_shot
from dinov3_jax.evals.classification.arrays import check_features, check_labels
from dinov3_jax.evals.classification.features import split_features
from dinov3_jax.evals.classification.metrics import mean_per_class
from dinov3_jax.evals.classification.pictures import chart, mistakes
from dinov3_jax.evals.evaluation import Result
from dinov3_jax.models.model import Model

GRID = tuple(10.0 ** np.linspace(-6, 5, 45))  # of C, the inverse strength of the penalty


@dataclasses.dataclass(frozen=True)
class LogisticSettings:
    data: str  # layouts: data/benchmarks/classification.py
    resize: int = 224  # pixels of the short side, bicubic
    crop: int = 224  # pixels, the centre
    C: tuple[float, ...] | None = None  # values tried; None: the 45 of GRID
    max_iter: int = 1000  # of L-BFGS
    tol: float = 1e-12  # of L-BFGS
    shots: float | None = None  # training images a class; below 1 a share of them; None: all
    draws: int = 5  # of few shots, seeds 0, 1, ...: mean and standard deviation
    batch: int = 64  # images a forward


class Fit(NamedTuple):
    classifier: LogisticRegression
    C: float  # the chosen one
    unfinished: int  # fits that max_iter ended before tol was reached


def evaluate(model: Model, settings: LogisticSettings, mesh: Mesh) -> Result:
    """Test images classified by the weights that suit the training images; CLS, not scaled.

    ``top1`` and ``mean_per_class``, percent (docs/evaluation.md says which one fine-grained data
    sets report); ``val_top1`` and ``C`` of the choice; ``unfinished``: fits out of all that
    ``max_iter`` ended. Without val/, a tenth of each class of train/ is held out. With ``shots``
    it is a hundredth of what was drawn, the fit on the rest counts (elsewhere all labelled images
    are fitted once more), and metrics are means over the draws, and ``*_std``.
    """
    data = open_classification(settings.data)
    values = GRID if settings.C is None else settings.C
    few = settings.shots is not None
    subsets = few_shot.subsets(data.train.labels, settings.shots, settings.draws)
    given = {"train": data.train, "test": data.test} | ({"val": data.val} if data.val else {})
    found = {
        name: split_features(
            model, mesh, split, resize=settings.resize, crop=settings.crop, batch=settings.batch
        )
        for name, split in given.items()
    }

    def score(chosen, seed):
        features, labels = found["train"][chosen], data.train.labels[chosen]
        if data.val is None:
            held = hold_out(labels, 0.01 if few else 0.1, seed=seed)
            parts = (features[~held], labels[~held], features[held], labels[held])
        else:
            parts = (features, labels, found["val"], data.val.labels)
        fit, tried = fit_best(
            *parts,
            classes=len(data.classes),
            values=values,
            refit=not few,
            max_iter=settings.max_iter,
            tol=settings.tol,
        )
        test = found["test"].astype(np.float64)
        predicted = fit.classifier.predict(test)
        scores = {
            "top1": 100.0 * float(np.mean(predicted == data.test.labels)),
            "mean_per_class": mean_per_class(
                np.eye(len(data.classes))[predicted], data.test.labels
            ),
            "C": fit.C,
            "unfinished": float(fit.unfinished),
        }
        if tried:
            scores["val_top1"] = tried[fit.C]
        if seed > 0:
            return scores, ()
        # A class without a training image has no column.
        logits = np.full((len(test), len(data.classes)), -np.inf)
        logits[:, fit.classifier.classes_] = fit.classifier.predict_log_proba(test)
        split = "images of train/ held out" if data.val is None else "val"
        caption = f"Top-1 by C, on {split}{', of the first draw' * few}"
        curve = (chart(list(tried), {"val": list(tried.values())}, caption=caption, x="C"),)
        wrong = mistakes(logits, data.test.labels, data.classes, data.test.image)
        return scores, (*curve * (len(tried) > 1), *wrong)

    scored, pictures = zip(*(score(chosen, seed) for seed, chosen in enumerate(subsets)))
    return Result(few_shot.spread(scored) if few else scored[0], pictures[0])


def hold_out(labels: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """bool [n]: ``share`` of each class, at least one image of those that have two or more."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            held[rng.choice(members, max(1, round(share * len(members))), replace=False)] = True
    return held


def fit_best(
    train,
    train_labels,
    val,
    val_labels,
    *,
    classes: int,
    values: Sequence[float] = GRID,
    refit: bool = True,
    max_iter: int = 1000,
    tol: float = 1e-12,
) -> tuple[Fit, dict[float, float]]:
    """scikit-learn's ``LogisticRegression`` with the C of ``values`` that is best on val.

    L-BFGS, L2 penalty, float64; of equally good C the smallest. Returns the fit, on train or, with
    ``refit``, on train and val together, and C -> percent right of val before that, ascending.
    A single C is not chosen: then val may be empty, and so is the table.

    Args:
      train, val: [n, D] float; train_labels, val_labels: [n] int in [0, classes).

    Raises:
      ConfigError: fewer than two classes in train, no val to choose by, a C that is not positive.
      ValueError: features that are not finite, labels that do not fit.
    """
    if not values or min(values) <= 0:
        raise ConfigError(f"values of C are {values}, wanted some, all positive")
    train = check_features("train", train).astype(np.float64)
    train_labels = check_labels("train_labels", train_labels, len(train), classes)
    if len(np.unique(train_labels)) < 2:
        raise ConfigError("train has images of one class alone, wanted at least two classes")
    has_val = len(val) > 0
    if has_val:
        val = check_features("val", val).astype(np.float64)
        val_labels = check_labels("val_labels", val_labels, len(val), classes)
    elif len(values) > 1:
        raise ConfigError(
            f"val has no image to choose one of {len(values)} C by; add images of each class, "
            "or give a single C"
        )
    how = {"max_iter": max_iter, "tol": tol}
    fits = {C: fit_one(train, train_labels, C, **how) for C in sorted(values)}
    tried = {C: top1(fit.classifier, val, val_labels) for C, fit in fits.items() if has_val}
    chosen = fits[max(tried, key=lambda C: tried[C])] if tried else next(iter(fits.values()))
    unfinished = sum(fit.unfinished for fit in fits.values())
    if refit and has_val:
        both, labels = np.concatenate([train, val]), np.concatenate([train_labels, val_labels])
        chosen = fit_one(both, labels, chosen.C, **how)
        unfinished += chosen.unfinished
    return chosen._replace(unfinished=unfinished), tried


def top1(classifier: LogisticRegression, features, labels) -> float:
    """Percent of ``features`` [n, D] that ``classifier`` gives their label [n]."""
    predicted = classifier.predict(np.asarray(features, np.float64))
    return 100.0 * float(np.mean(predicted == labels))


def fit_one(features, labels, C: float, *, max_iter: int, tol: float) -> Fit:
    """scikit-learn's ``LogisticRegression`` of one C; fits that ``max_iter`` ends are counted."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier = LogisticRegression(C=C, max_iter=max_iter, tol=tol).fit(features, labels)
    late = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    for other in caught:
        if other not in late:
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return Fit(classifier, float(C), int(bool(late)))
