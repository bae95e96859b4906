"""Hierarchical k-means: clusters of clusters, each level flatter than the density below it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.curation.kmeans import Clusters, assign, kmeans
from dinov3_jax.curation.sampling import rank_within
from dinov3_jax.curation.split import split


class Level(NamedTuple):
    """How one level is made."""

    clusters: int  # k
    resamplings: int = 0  # further clusterings of a flattened sample; 0: none
    kept: int = 2  # members a cluster in that sample, about half of its mean size
    split: int = 1  # each cluster is at last split in up to so many; 1: none


def hierarchy(
    points, levels: Sequence[Level], *, mesh: Mesh, seed: int, iterations: int = 50
) -> list[Clusters]:
    """Level 1 clusters ``points`` [n, D]; level l the centroids of level l - 1, unweighted.

    A resampling takes the ``kept`` members nearest to each centroid, clusters those afresh and
    assigns all inputs of the level to the new centroids: dense regions get no more centroids than
    they have clusters. Where many inputs are equal, and most clusters therefore empty, as many more
    are taken as make k. At last each cluster is split (``split.split``), for numbers that one
    k-means cannot reach. Clusters that end empty are dropped, so that a level may have fewer.

    Args:
      points: as ``kmeans``.
      levels: lowest first, each with fewer clusters (times ``split``) than the one below has.
      mesh, iterations: as ``kmeans``.
      seed: the same seed gives the same tree; every clustering draws from its own stream.

    Returns:
      One ``Clusters`` a level, lowest first; ``[c.assignments for c in ...]`` are the ``levels`` of
      ``sampling.balanced_sample``.

    Raises:
      ValueError: no levels, clusters that do not decrease, a ``kept`` below 2, ``resamplings``
        below 0 or ``split`` below 1; as ``kmeans``.
    """
    check_levels(levels, len(points))
    made = []
    for number, level in enumerate(levels):
        made.append(
            cluster_level(points, level, number, mesh=mesh, seed=seed, iterations=iterations)
        )
        points = made[-1].centroids
    return made


def check_levels(levels: Sequence[Level], points: int) -> None:
    """``ValueError`` unless such levels can be made of so many points, as ``hierarchy`` says."""
    if len(levels) == 0:
        raise ValueError("there are 0 levels, wanted at least 1")
    above = points
    for number, level in enumerate(levels, 1):
        if level.resamplings < 0 or level.kept < 2 or level.split < 1:
            raise ValueError(
                f"level {number} has resamplings {level.resamplings}, kept {level.kept}, split "
                f"{level.split}; wanted at least 0, 2 and 1"
            )
        asked = level.clusters * level.split
        if asked >= above:
            raise ValueError(
                f"level {number} asks for {asked} clusters of {above} inputs; wanted "
                "fewer clusters than inputs"
            )
        above = asked


def cluster_level(
    points, level: Level, number: int, *, mesh: Mesh, seed: int, iterations: int = 50
) -> Clusters:
    """Level ``number``, from 0, of ``hierarchy`` alone; ``points`` are what it clusters.

    A long job makes level after level, keeps each, and after a kill goes on with the next.
    """
    own = np.random.SeedSequence(seed, spawn_key=(number,))
    # One more: the first ones are the same whether a level is split or not.
    first, *again, last = (int(s) for s in own.generate_state(level.resamplings + 2))
    k = level.clusters
    clusters = kmeans(points, k, mesh=mesh, seed=first, iterations=iterations)
    for one in again:
        sample = np.asarray(points[nearest_members(clusters, level.kept, least=k)])
        fresh = kmeans(sample, k, mesh=mesh, seed=one, iterations=iterations)
        clusters = Clusters(fresh.centroids, *assign(points, fresh.centroids, mesh=mesh))
    if level.split == 1:
        return without_empty(clusters)
    return split(points, clusters, level.split, mesh=mesh, seed=last, iterations=iterations)


def nearest_members(clusters: Clusters, kept: int, *, least: int = 1) -> np.ndarray:
    """Ascending int64: the ``kept`` members nearest to each centroid.

    More of each, as few as will do, where these are below ``least``: most clusters may be empty.
    """
    rank = rank_within(clusters.assignments, clusters.distances)
    return np.flatnonzero(rank < max(kept, 1 + np.partition(rank, least - 1)[least - 1]))


def without_empty(clusters: Clusters) -> Clusters:
    """The clusters that have a member, renumbered in order."""
    full, assignments = np.unique(clusters.assignments, return_inverse=True)
    return Clusters(clusters.centroids[full], assignments.astype(np.int32), clusters.distances)
