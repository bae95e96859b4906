"""Few labelled images: the same draw of every class for a seed, and the spread over seeds."""

from collections.abc import Mapping, Sequence

import numpy as np

from dinov3_jax.config import ConfigError


def subsets(labels: np.ndarray, shots: float | None, draws: int) -> list[np.ndarray]:
    """Indices of the images that count, one array a draw (seeds 0, 1, ...); all if shots is None.

    Raises ``ConfigError`` as ``draw``, or without a draw.
    """
    if shots is None:
        return [np.arange(len(labels))]
    if draws < 1:
        raise ConfigError(f"draws is {draws}, wanted at least 1")
    return [draw(labels, shots, seed=seed) for seed in range(draws)]


def draw(labels: np.ndarray, shots: float, *, seed: int) -> np.ndarray:
    """Ascending indices of some images of each class, int64.

    shots: a number of images from each class or, below 1, a share of each class, which comes to at
    least one image. Raises ``ConfigError`` where a class has fewer images than ``shots``.
    """
    if shots <= 0 or (shots >= 1 and shots != int(shots)):
        raise ConfigError(f"shots is {shots}, wanted a whole number, or a share between 0 and 1")
    rng = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = int(shots) if shots >= 1 else max(1, round(shots * len(members)))
        if count > len(members):
            raise ConfigError(
                f"shots is {shots}, class {label} has {len(members)} images; wanted at most that"
            )
        chosen.append(rng.choice(members, count, replace=False))
    return np.sort(np.concatenate(chosen))


def spread(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """``name``: mean over several draws of the same metrics; ``name_std``: sqrt of the mean squared
    distance to it."""
    metrics = {}
    for name in found[0]:
        values = [one[name] for one in found]
        metrics[name] = float(np.mean(values))
        metrics[f"{name}_std"] = float(np.std(values))
    return metrics
