"""Images of the pool that resemble a seed data set: its neighbours, or its clusters."""

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.curation.neighbours import nearest
from dinov3_jax.curation.sampling import rank_within, share


def retrieve(
    seeds, pool, k: int, *, budget: int, mesh: Mesh, probes: int | None = None
) -> np.ndarray:
    """The k nearest pool images of every seed image, at most ``budget`` of them.

    Where there are more, all first neighbours come before any second one, and among neighbours of
    the same place the more similar first (then the lower number), each image counted at its best
    place. For large seed sets; DINOv2 takes k = 4 (ImageNet-22k, Google Landmarks) and 32
    (ImageNet-1k).

    Args:
      seeds: [s, D] float embeddings, array or ``np.memmap``.
      pool: [n, D] float, likewise.
      k: neighbours a seed image, 1 to n.
      budget: images, 1 to n.
      mesh, probes: as ``neighbours.nearest``.

    Returns:
      int64 [at most budget], pool images in ascending order, none twice. Fewer than the budget
      where the seeds have fewer neighbours among them.

    Raises:
      ValueError: a budget out of range; as ``neighbours.nearest``.
    """
    _check_budget(budget, len(pool))
    index, cosine = nearest(seeds, pool, k, mesh=mesh, probes=probes)
    place = np.broadcast_to(np.arange(k), index.shape)
    order = np.lexsort((index.ravel(), -cosine.ravel(), place.ravel()))
    found, first = np.unique(index.ravel()[order], return_index=True)
    return np.sort(found[np.argsort(first)][:budget]).astype(np.int64)


def retrieve_clusters(
    seed_clusters: np.ndarray,
    pool_clusters: np.ndarray,
    *,
    more_than: int = 3,
    each: int = 10_000,
    budget: int = 1_000_000,
    seed: int,
) -> np.ndarray:
    """Random pool images of every cluster with more than ``more_than`` seed images.

    Up to ``each`` of a cluster; if these are more than ``budget``, the budget is shared evenly
    (``sampling.share``). For small seed sets; the defaults are DINOv2's, with 100,000 clusters.

    Args:
      seed_clusters: [s] int, the cluster of each seed image, of ``kmeans.assign`` on the pool's
        centroids.
      pool_clusters: [n] int, of each pool image.
      more_than: at least 0.
      each, budget: images, at least 1.
      seed: the same seed draws the same images.

    Returns:
      int64 [at most budget], pool images in ascending order, none twice.

    Raises:
      ValueError: numbers out of range.
    """
    if more_than < 0 or each < 1 or budget < 1:
        raise ValueError(
            f"more_than is {more_than}, each {each}, budget {budget}; wanted at least 0, 1 and 1"
        )
    clusters = 1 + max(seed_clusters.max(initial=-1), pool_clusters.max(initial=-1))
    if min(seed_clusters.min(initial=0), pool_clusters.min(initial=0)) < 0:
        raise ValueError("a cluster number is below 0; wanted those of kmeans.assign")
    rng = np.random.default_rng(seed)
    wanted = np.bincount(seed_clusters, minlength=clusters) > more_than
    sizes = np.minimum(np.bincount(pool_clusters, minlength=clusters), each) * wanted
    total = np.array([min(budget, sizes.sum())])
    quota = share(np.zeros(clusters, np.int64), sizes, total, rng)
    place = rank_within(pool_clusters, rng.random(len(pool_clusters)))
    return np.flatnonzero(place < quota[pool_clusters])


def _check_budget(budget, n):
    if not 1 <= budget <= n:
        raise ValueError(
            f"budget is {budget}, the pool has {n} images; wanted 1 to {n}: lower the budget"
        )
