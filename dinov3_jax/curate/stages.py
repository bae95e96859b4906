"""From embeddings to chosen images: duplicates out, clusters, a balanced sample, retrieved images.

Every stage has a folder of ``.npy`` files and ``stage.json``: its settings and the digests of what
it was made from. A file appears whole or not at all, and what is there is not made again; so a
stage that was killed goes on, and one whose settings or inputs have changed refuses. Of several
processes, which see one folder, all compute and process 0 writes.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.curate.embeddings import Embedded, UnitRows, join
from dinov3_jax.curate.recipe import CurationConfig, RetrieveConfig, levels
from dinov3_jax.curation.dedup import joined, similar, touched
from dinov3_jax.curation.hierarchy import cluster_level
from dinov3_jax.curation.kmeans import assign
from dinov3_jax.curation.retrieval import retrieve, retrieve_clusters
from dinov3_jax.curation.sampling import balanced_sample
from dinov3_jax.distributed import agree
from dinov3_jax.features.claim import claim_folder
from dinov3_jax.features.formats import write_whole
from dinov3_jax.features.whitening import Whitening, fit_whitening

WHITENED_FROM = 100_000  # images of the pool from which whitening is learned, evenly spaced


class Deduplicated(NamedTuple):
    """Of the n embedded images of the pool."""

    kept: np.ndarray  # int64, ascending rows
    groups: np.ndarray  # int64 [n], the lowest row of each one's near-duplicates
    seen: np.ndarray  # bool [n], known to an evaluation set
    points: UnitRows  # [n, d], whose cosines were compared


class Tree(NamedTuple):
    """Clusters of the kept images."""

    centroids: list[np.ndarray]  # of each level float32 [k, D], lowest first
    parents: list[np.ndarray]  # int32: the cluster of each kept image, of each cluster below ...

    def clusters(self, level: int) -> np.ndarray:
        """int32 [kept]: the cluster of every kept image at ``level``, from 0."""
        return climb(self.parents[: level + 1])


def climb(parents: list[np.ndarray]) -> np.ndarray:
    """What images, numbered by ``parents[0]``, belong to at the last level of ``parents``."""
    found = parents[0]
    for above in parents[1:]:
        found = above[found]
    return found


def dedup_stage(
    folder: Path, pool: Embedded, against: list[Embedded], recipe: CurationConfig, *, mesh: Mesh
) -> Deduplicated:
    """One image of each group of near-duplicates, none that an evaluation set knows.

    Of a group the lowest row stays that no evaluation set knows.
    """
    settings = recipe.dedup
    inputs = {f"against {i}": one.digest for i, one in enumerate(against)}
    _claim(folder, dataclasses.asdict(settings), {"pool": pool.digest, **inputs})
    n = len(pool.points)
    points = pool.points
    known = join([one.points for one in against]) if against else None
    if settings.whiten is not None:
        whitening = _whitening(points, settings.whiten)
        points, known = points.whitened(whitening), known and known.whitened(whitening)

    @functools.cache  # one search for both
    def found():
        return similar(points, mesh=mesh, neighbours=settings.neighbours, probes=settings.probes)

    def find_groups():
        if settings.threshold is None:
            return np.arange(n)
        return joined(*found(), settings.threshold)

    def find_seen():
        if known is None:
            return np.zeros(n, bool)
        threshold = settings.against_threshold
        return touched(points, known, joined(*found(), threshold), mesh=mesh, threshold=threshold)

    groups = _once(folder / "groups.npy", find_groups)
    seen = _once(folder / "seen.npy", find_seen)
    unseen = np.flatnonzero(~seen)
    first = np.unique(groups[unseen], return_index=True)[1]
    return Deduplicated(np.sort(unseen[first]), groups, seen, points)


def _whitening(points: UnitRows, dims: int) -> Whitening:
    n, width = points.shape
    if dims > min(width, n - 1):
        raise ConfigError(
            f"dedup.whiten is {dims}, wanted at most {min(width, n - 1)}: the features have "
            f"{width} numbers, of {n} images; or None"
        )
    rows = np.linspace(0, n - 1, min(n, WHITENED_FROM)).astype(np.int64)
    return fit_whitening(points[rows], dims)


def cluster_stage(
    folder: Path, pool: Embedded, kept: np.ndarray, recipe: CurationConfig, *, mesh: Mesh
) -> Tree:
    """The hierarchy over the kept images; a killed run goes on with the level it was at."""
    settings = {
        "levels": [dataclasses.asdict(level) for level in recipe.levels],
        "iterations": recipe.iterations,
        "seed": recipe.seed,
    }
    _claim(folder, settings, {"pool": pool.digest, "kept": digest(kept)})
    points: Any = pool.points.take(kept)
    tree = Tree([], [])
    for number, level in enumerate(levels(recipe)):
        centroids = folder / f"level{number + 1}.centroids.npy"
        parents = folder / f"level{number + 1}.assignments.npy"  # written last
        if not there(parents):
            try:
                made = cluster_level(
                    points,
                    level,
                    number,
                    mesh=mesh,
                    seed=recipe.seed,
                    iterations=recipe.iterations,
                )
            except ValueError as error:  # the level below came out with too few clusters
                inputs = f"the {len(points)} clusters of level {number} that are not empty"
                where = f" (its points are {inputs})" if number else ""
                raise ConfigError(f"level {number + 1}{where}: {error}") from error
            save(centroids, made.centroids)
            save(parents, made.assignments)
        tree.centroids.append(np.load(centroids))
        tree.parents.append(np.load(parents))
        points = tree.centroids[-1]
    return tree


def sample_stage(folder: Path, kept: np.ndarray, tree: Tree, recipe: CurationConfig) -> np.ndarray:
    """int64 [sample.budget], ascending rows of the pool: spread evenly over the tree."""
    inputs = {f"level {i}": digest(parents) for i, parents in enumerate(tree.parents, 1)}
    settings = {"budget": recipe.sample.budget, "seed": recipe.seed}
    _claim(folder, settings, {"kept": digest(kept), **inputs})
    return _once(
        folder / "chosen.npy",
        lambda: kept[balanced_sample(tree.parents, recipe.sample.budget, seed=recipe.seed)],
    )


def retrieve_stage(
    folder: Path,
    name: str,
    seeds: Embedded,
    pool: Embedded,
    kept: np.ndarray,
    tree: Tree,
    recipe: CurationConfig,
    *,
    mesh: Mesh,
) -> np.ndarray:
    """int64, ascending rows of kept pool images that resemble the seed set ``name``."""
    settings = recipe.retrieve
    level = settings.level - 1
    inputs = {
        "pool": pool.digest,
        "seeds": seeds.digest,
        "kept": digest(kept),
        "clusters": digest(tree.clusters(level)),
    }
    _claim(folder, {**dataclasses.asdict(settings), "seed": recipe.seed}, inputs)

    def find():
        if len(seeds.points) >= settings.large:
            k = min(neighbours_of(settings, name), len(kept))
            budget = min(settings.budget, len(kept))
            points, probes = pool.points.take(kept), settings.probes
            return kept[retrieve(seeds.points, points, k, budget=budget, mesh=mesh, probes=probes)]
        lowest, _ = assign(seeds.points, tree.centroids[0], mesh=mesh)
        found = retrieve_clusters(
            climb([lowest, *tree.parents[1 : level + 1]]),
            tree.clusters(level),
            more_than=settings.more_than,
            each=settings.each,
            budget=settings.budget,
            seed=recipe.seed,
        )
        return kept[found]

    return _once(folder / "chosen.npy", find)


def neighbours_of(settings: RetrieveConfig, name: str) -> int:
    """How many neighbours an image of the large seed set ``name`` brings."""
    return dict(settings.neighbours_of).get(name, settings.neighbours)


def digest(array: np.ndarray) -> str:
    """Hex sha256 of dtype, shape and content."""
    found = hashlib.sha256(f"{array.dtype} {array.shape}\n".encode())
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def there(path: Path) -> bool:
    """Whether process 0 sees ``path``: then all take the same way."""
    return bool(agree.largest(jax.process_index() == 0 and path.exists()))


def save(path: Path, array: np.ndarray) -> None:
    """Process 0 writes a ``.npy`` file whole or not at all; the others wait for it."""

    def write(draft):
        with open(draft, "wb") as file:  # given a name, numpy would add a suffix
            np.save(file, array)

    if jax.process_index() == 0:
        write_whole(path, write)
    agree.barrier(f"{path.name} is written")


def _once(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array of a file, made first if it is not there."""
    if not there(path):
        save(path, make())
    return np.load(path)


def _claim(folder: Path, settings: dict, inputs: dict[str, str]) -> None:
    claim_folder(
        folder,
        "stage.json",
        {**settings, **{f"made from {name}": value for name, value in inputs.items()}},
        holds="results",
        advice="set these back, or delete that folder to have it made again",
    )
