"""Scores of a classifier, each in percent, 0 to 100: plain functions of arrays.

``scores`` [n, K] are real numbers of any scale. The largest is the prediction, and of equal ones
the lower class: a classifier that says nothing is then right by chance, not always.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dinov3_jax.config import ConfigError

# Error of AlexNet on each corruption of ImageNet-C, the mean of its 5 levels (Hendrycks and
# Dietterich, ICLR 2019). The four further corruptions of that data set are no part of the mean.
ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640,
    "defocus_blur": 0.819880, "glass_blur": 0.826268, "motion_blur": 0.785948,
    "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572, "fog": 0.819324,
    "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056,
    "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip


def ranks(scores, labels):
    """Number of classes before the true one, int [...]: 0 is a hit, below 5 one of the top 5.

    scores [..., K] and labels int [...] in [0, K), both of numpy or both of jax (traced too).
    Scores that are not numbers never hit.
    """
    xp = scores.__array_namespace__()
    own = labels[..., None]
    true = xp.take_along_axis(scores, own, axis=-1)
    behind = (scores < true) | ((scores == true) & (xp.arange(scores.shape[-1]) >= own))
    return (~behind).sum(axis=-1)


def accuracy(scores: np.ndarray, labels: np.ndarray, *, k: int = 1) -> float:
    """Images whose true class is among the k of largest score; every image counts the same."""
    scores, labels = _check(scores, labels)
    return 100.0 * float(np.mean(ranks(scores, labels) < k))


def mean_per_class(scores: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 of each class, then their mean; classes without an image are left out."""
    scores, labels = _check(scores, labels)
    hits = ranks(scores, labels) == 0
    images = np.bincount(labels)
    right = np.bincount(labels, weights=hits)
    return 100.0 * float(np.mean(right[images > 0] / images[images > 0]))


def any_match(scores: np.ndarray, label_sets: Sequence[Sequence[int]]) -> float:
    """Images whose prediction is one of their labels; images without a label are left out.

    The score of ImageNet-ReaL (Beyer et al., arXiv 2006.07159).
    """
    if len(scores) != len(label_sets):
        raise ValueError(f"{len(scores)} images have scores, {len(label_sets)} have labels")
    kept = [i for i, labels in enumerate(label_sets) if len(labels)]
    if not kept:
        raise ConfigError(f"none of {len(label_sets)} images has a label, wanted at least one")
    predicted = np.asarray(scores).argmax(axis=-1)
    return 100.0 * float(np.mean([predicted[i] in label_sets[i] for i in kept]))


def restrict(scores: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Scores with -inf for all but ``classes``: what a data set without the others asks for."""
    kept = np.full(scores.shape, -np.inf, scores.dtype)
    kept[:, list(classes)] = scores[:, list(classes)]
    return kept


def precision_recall(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall when all images from the best down to a score are taken.

    scores [n], positive bool [n] with at least one True. One point for each different score,
    descending: images of equal score are taken together.
    """
    scores, positive = np.asarray(scores), np.asarray(positive, bool)
    if scores.shape != positive.shape or scores.ndim != 1:
        raise ValueError(f"scores are {scores.shape}, labels {positive.shape}; wanted [n] for both")
    if not positive.any():
        raise ValueError(f"no image of {len(scores)} is positive, wanted at least one")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of its run of equal scores
    hits = np.cumsum(positive[order])
    precision = hits / np.arange(1, len(scores) + 1)
    return precision[last], (hits / hits[-1])[last]


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Mean of the precision over the steps of the recall: the area under their curve."""
    precision, recall = precision_recall(scores, positive)
    return 100.0 * float(np.sum(np.diff(recall, prepend=0.0) * precision))


def eleven_point(scores: np.ndarray, positive: np.ndarray) -> float:
    """Average precision of VOC 2007: mean, over the recalls 0, .1, .. 1, of the largest precision
    at that recall or a higher one."""
    precision, recall = precision_recall(scores, positive)
    # A recall of exactly .3 is 0.30000000000000004 or 0.29999999999999999: hence the slack.
    beyond = (recall[None] >= np.linspace(0, 1, 11)[:, None] - 1e-9) * precision[None]  # [11, m]
    return 100.0 * float(beyond.max(axis=1).mean())


def multilabel(scores: np.ndarray, labels: np.ndarray, *, metric=average_precision) -> float:
    """Mean of ``metric`` over the classes of images with several labels each.

    scores [n, K]; labels int [n, K]: 1 for a class in the image, 0 for one that is not, -1 for one
    that does not count (VOC's "difficult"). Classes without a positive image are left out.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.shape != labels.shape or scores.ndim != 2 or not np.isin(labels, (-1, 0, 1)).all():
        raise ValueError(
            f"scores are {scores.shape}, labels {labels.shape}; wanted [n, K] for both and labels "
            "-1, 0 or 1"
        )
    found = np.flatnonzero((labels == 1).any(axis=0))
    if not len(found):
        raise ConfigError(f"no label of {len(labels)} images is 1, wanted at least one")
    counted = [(scores[:, c], labels[:, c], labels[:, c] >= 0) for c in found]
    return float(np.mean([metric(s[kept], y[kept] == 1) for s, y, kept in counted]))


def mean_corruption_error(accuracies: Mapping[str, Sequence[float]]) -> float:
    """mCE: mean over corruptions of the error over the 5 levels, divided by that of AlexNet.

    accuracies: top-1 in percent of each level, of all corruptions in ``ALEXNET``. Lower is better;
    100 is AlexNet.
    """
    if set(accuracies) != set(ALEXNET):
        missing, more = set(ALEXNET) - set(accuracies), set(accuracies) - set(ALEXNET)
        raise ValueError(
            f"the mean corruption error is of 15 corruptions; missing are {sorted(missing)}, not "
            f"among them {sorted(more)}"
        )
    ratios = [(100.0 - np.mean(levels)) / ALEXNET[name] for name, levels in accuracies.items()]
    return float(np.mean(ratios))


def _check(scores, labels):
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(
            f"scores are {scores.shape}, labels {labels.shape}; wanted [n, K] and [n], n >= 1"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype}, wanted integers")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(
            f"labels span {labels.min()} to {labels.max()}, wanted 0 to {scores.shape[1] - 1}, the "
            "classes that have a score"
        )
    return scores, labels
