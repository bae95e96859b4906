"""Features and labels as the classification protocols take them, or the error that says why not."""

import numpy as np


def check_features(name: str, x) -> np.ndarray:
    """``x`` as an array [images >= 1, D]; ``ValueError`` if it is none, or not finite."""
    x = np.asarray(x)
    if x.ndim != 2:
        raise ValueError(f"{name} has shape {x.shape}, wanted [images, D]")
    if len(x) == 0:
        raise ValueError(f"{name} has 0 images, wanted at least 1; check its path")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x).all(axis=1)).sum())
        raise ValueError(
            f"{name}: {bad} of {len(x)} rows are not finite; "
            "the model has diverged, use an earlier checkpoint"
        )
    return x


def check_labels(name: str, labels, count: int, classes: int) -> np.ndarray:
    """``labels`` as int32 [count] in [0, classes); ``ValueError`` for anything else."""
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise ValueError(f"{name} has shape {labels.shape}, wanted one label an image: ({count},)")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} has dtype {labels.dtype}, wanted integers")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{name} span {labels.min()} to {labels.max()}, wanted 0 to {classes - 1}; "
            "raise classes or renumber the labels"
        )
    return labels.astype(np.int32)
