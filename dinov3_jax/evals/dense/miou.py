"""Scores of a semantic segmentation, from one confusion matrix over the whole data set."""

import numpy as np

IGNORED = 255  # the label of pixels that no score counts


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes]: pixels of class i (row) that were called j (column).

    labels: integers in [0, classes) or ``IGNORED``; predicted: integers of the same shape in
    [0, classes). Matrices of several images add up.

    Raises ``ValueError`` for other shapes or values.
    """
    if labels.shape != predicted.shape:
        raise ValueError(f"labels are {labels.shape}, predicted {predicted.shape}; wanted the same")
    counted = labels != IGNORED
    true, called = labels[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for name, found in (("labels", true), ("predicted", called)):
        if found.size and (found.min() < 0 or found.max() >= classes):
            raise ValueError(
                f"{name} span {found.min()} to {found.max()}, wanted 0 to {classes - 1} "
                f"(labels: or {IGNORED})"
            )
    counts = np.bincount(classes * true + called, minlength=classes * classes)
    return counts.reshape(classes, classes)


def iou(counts: np.ndarray) -> np.ndarray:
    """Percent float64 [classes]: |true and called| / |true or called|.

    NaN for a class that is neither: absent from the labels and never called.
    """
    both, true, called = _parts(counts)
    return _ratio(both, true + called - both)


def scores(counts: np.ndarray) -> dict[str, float]:
    """Percent. ``miou``: mean of ``iou``; ``aacc``: pixels that are right; ``macc``: mean over
    classes of the pixels of a class that are right; ``mdice``: mean of 2 |both| / (|true| +
    |called|), which is the F score of pixels. Means leave out classes for which they are 0 / 0.

    Raises ``ValueError`` where no pixel was counted.
    """
    if not counts.sum():
        raise ValueError(f"no pixel has a label: all are {IGNORED}, which is not counted")
    both, true, called = _parts(counts)
    return {
        "miou": float(np.nanmean(iou(counts))),
        "aacc": float(100 * both.sum() / true.sum()),
        "macc": float(np.nanmean(_ratio(both, true))),
        "mdice": float(np.nanmean(_ratio(2 * both, true + called))),
    }


def _parts(counts):
    return np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)


def _ratio(part, whole):
    return np.divide(100.0 * part, whole, out=np.full(len(part), np.nan), where=whole > 0)
