"""A budget of images spread evenly over a tree of clusters, and how even it came out."""

from collections.abc import Sequence

import numpy as np


def balanced_sample(levels: Sequence[np.ndarray], budget: int, *, seed: int) -> np.ndarray:
    """Exactly ``budget`` images, top down: each cluster shares its part evenly among its children.

    A cluster with budget b and children of n_1, n_2, ... images gives child i ``min(c, n_i)``, with
    c the largest integer for which these sum to at most b; what is left goes, one each, to random
    children that have more than c. So small children are taken whole and large ones are cut to
    the same number. In a cluster of the lowest level images are drawn at random.

    Args:
      levels: parents, lowest level first: ``levels[0]`` [n] int is the cluster of each image,
        ``levels[l]`` [clusters of level l - 1] int the cluster of each of those.
      budget: images, 1 to n.
      seed: the same seed draws the same images.

    Returns:
      int64 [budget], image numbers in ascending order, none twice.

    Raises:
      ValueError: a budget below 1 or above n, levels that do not fit each other.
    """
    _check_levels(levels)
    n = len(levels[0])
    if not 1 <= budget <= n:
        raise ValueError(
            f"budget is {budget}, the pool has {n} images; wanted 1 to {n}: lower the budget"
        )
    rng = np.random.default_rng(seed)
    sizes = [np.ones(n, np.int64)]  # images below each node of a level, the images themselves first
    for parents in levels:
        below = np.zeros(parents.max() + 1, np.int64)
        np.add.at(below, parents, sizes[-1])
        sizes.append(below)
    quota = share(np.zeros(len(sizes[-1]), np.int64), sizes[-1], np.array([budget]), rng)
    for parents, below in zip(reversed(levels), reversed(sizes[:-1])):
        quota = share(parents, below, quota, rng)
    return np.flatnonzero(quota)


def share(
    parents: np.ndarray, sizes: np.ndarray, budgets: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """What each child gets of its parent's budget: int64 [children], as in ``balanced_sample``.

    ``parents`` [children] int, ``sizes`` [children] and ``budgets`` [parents] int64; no budget is
    above the sum of its children's sizes.
    """
    groups = len(budgets)

    def given(cap):
        return np.bincount(parents, np.minimum(cap[parents], sizes), groups).astype(np.int64)

    low, high = np.zeros(groups, np.int64), np.full(groups, sizes.max(initial=0), np.int64)
    while (low < high).any():  # the largest cap within budget, of all parents at once
        middle = (low + high + 1) // 2
        fits = given(middle) <= budgets
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    quota = np.minimum(low[parents], sizes)
    larger = np.flatnonzero(sizes > low[parents])
    place = rank_within(parents[larger], rng.random(len(larger)))
    quota[larger] += place < (budgets - given(low))[parents[larger]]
    return quota


def rank_within(groups: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Place of each element in its group when sorted by key, from 0; the lower index on a tie."""
    order = np.lexsort((keys, groups))  # stable
    starts = np.searchsorted(groups[order], groups[order])
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - starts
    return ranks


def kl_to_uniform(labels: np.ndarray, classes: int) -> float:
    """``sum_c p_c log(p_c classes)`` in nats of labels [n] int: 0 where all are as frequent."""
    p = np.bincount(labels, minlength=classes) / len(labels)
    return float(np.sum(p[p > 0] * np.log(p[p > 0] * classes)))


def _check_levels(levels):
    if len(levels) == 0:
        raise ValueError("there are 0 levels, wanted at least 1")
    for number, parents in enumerate(levels):
        if parents.ndim != 1 or len(parents) == 0 or parents.min() < 0:
            raise ValueError(
                f"level {number} has shape {parents.shape}, wanted [nodes] of numbers from 0"
            )
        if number and len(parents) != levels[number - 1].max() + 1:
            raise ValueError(
                f"level {number} speaks of {len(parents)} clusters, level {number - 1} has "
                f"{levels[number - 1].max() + 1}; take both from the same hierarchy"
            )
