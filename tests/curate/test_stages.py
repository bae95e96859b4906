"""Stages on points that are made up, so that one knows what they must find."""

import dataclasses

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.curate import stages
from dinov3_jax.curate.embeddings import Embedded, UnitRows
from dinov3_jax.curation import dedup, retrieval
from dinov3_jax.curation.sampling import kl_to_uniform
from tests.curate.pools import recipe
from tests.curation.meshes import mesh_of

MESH = mesh_of(1)
# Directions far from each other, and how many points lie about each.
CENTRES = np.eye(8, dtype=np.float32)[:5]
COUNTS = (30, 15, 8, 4, 3)


def embedded(points, digest="pool"):
    n = len(points)
    ids = [f"{i}" for i in range(n)]
    return Embedded(UnitRows([points], np.arange(n)), np.arange(n), np.zeros(n), ids, [], digest)


def blobs(seed=0, counts=COUNTS):
    rng = np.random.default_rng(seed)
    which = np.repeat(np.arange(len(counts)), counts)
    noise = rng.normal(size=(len(which), 8)).astype(np.float32)
    return CENTRES[which] + 0.05 * noise, which


@pytest.fixture
def tree(tmp_path):
    points, which = blobs()
    kept = np.arange(len(points))
    return stages.cluster_stage(tmp_path / "c", embedded(points), kept, recipe(), mesh=MESH), which


def test_of_duplicates_the_lowest_stays_that_no_evaluation_set_knows(tmp_path):
    axes = np.eye(8, dtype=np.float32)
    # 0 and 3 are one image, 1 and 4 another; 5 is known to the evaluation set, 2 stands alone.
    points = axes[[0, 1, 2, 0, 1, 5]]
    pool, known = embedded(points), embedded(axes[[5, 6]], "known")
    found = stages.dedup_stage(tmp_path / "a", pool, [known], recipe(), mesh=MESH)
    assert found.kept.tolist() == [0, 1, 2]
    assert found.groups.tolist() == [0, 1, 2, 0, 1, 5]
    assert found.seen.tolist() == [False] * 5 + [True]
    off = dataclasses.replace(recipe().dedup, threshold=None)
    found = stages.dedup_stage(
        tmp_path / "b", pool, [], dataclasses.replace(recipe(), dedup=off), mesh=MESH
    )
    assert found.kept.tolist() == list(range(6))


def test_whitened_features_tell_copies_from_images_that_lie_close(tmp_path):
    # Features of a small model: two directions, say of colour, hide the others.
    rng = np.random.default_rng(0)
    own = rng.normal(size=(202, 8))
    own[200:] = own[:2] + 0.05 * rng.normal(size=(2, 8))  # copies of 0 and 1
    spread = np.array([10, 10, 1, 1, 1, 1, 1, 1])
    points = (spread * own).astype(np.float32)
    leak = (spread * (own[[5]] + 0.05)).astype(np.float32)

    def found(name, whiten, threshold):
        dedup = dataclasses.replace(
            recipe().dedup, whiten=whiten, threshold=threshold, against_threshold=threshold
        )
        changed = dataclasses.replace(recipe(), dedup=dedup)
        sets = [embedded(leak, "leak")]
        return stages.dedup_stage(tmp_path / name, embedded(points), sets, changed, mesh=MESH)

    # As they are no threshold finds both copies and nothing else.
    plain = found("a", None, 0.97)
    cosine = plain.points[np.arange(202)] @ plain.points[np.arange(202)].T
    assert np.max(cosine[:200, :200] - np.eye(200)) > min(cosine[0, 200], cosine[1, 201])
    assert len(plain.kept) < 150
    white = found("b", 8, 0.97)
    assert np.flatnonzero(white.seen).tolist() == [5]
    assert np.setdiff1d(np.arange(202), white.kept).tolist() == [5, 200, 201]
    np.testing.assert_allclose(np.linalg.norm(white.points[:3], axis=1), 1, rtol=1e-6)  # float32


@pytest.mark.parametrize(("rows", "most"), [(60, 8), (6, 5)])
def test_more_directions_than_there_are(tmp_path, rows, most):
    dedup = dataclasses.replace(recipe().dedup, whiten=9)
    changed = dataclasses.replace(recipe(), dedup=dedup)
    pool = embedded(blobs()[0][:rows])
    with pytest.raises(ConfigError, match=f"dedup.whiten is 9, wanted at most {most}: the feat"):
        stages.dedup_stage(tmp_path / "a", pool, [], changed, mesh=MESH)


def watch(monkeypatch, module):
    """(queries, rows of the pool, probes) of each search of ``module``, all of them exact."""
    searches, real = [], module.nearest

    def nearest(queries, pool, k, *, mesh, probes=None):
        searches.append((queries.shape[0], pool.shape[0], probes))
        return real(queries, pool, k, mesh=mesh)

    monkeypatch.setattr(module, "nearest", nearest)
    return searches


def test_the_pool_is_searched_once_whatever_the_thresholds(tmp_path, monkeypatch):
    axes = np.eye(8, dtype=np.float32)
    points = axes[[0, 1, 2, 0, 1, 5]]
    # Not a copy of 2 and only at 0.45, but then it is as the image that is known.
    points[3] = [0, 0, 0.6, 0, 0, 0.8, 0, 0]
    pool, known = embedded(points), embedded(axes[[5, 6]], "known")
    settings = dataclasses.replace(recipe().dedup, threshold=0.9, against_threshold=0.45, probes=3)
    changed = dataclasses.replace(recipe(), dedup=settings)
    searches = watch(monkeypatch, dedup)
    found = stages.dedup_stage(tmp_path / "a", pool, [known], changed, mesh=MESH)
    assert found.groups.tolist() == [0, 1, 2, 3, 1, 5]
    assert found.seen.tolist() == [False, False, True, True, False, True]
    assert searches == [(6, 6, 3), (6, 2, None)]


def test_a_killed_clustering_goes_on_with_the_level_it_was_at(tree, tmp_path, monkeypatch):
    folder, pool = tmp_path / "c", embedded(blobs()[0])
    (folder / "level2.assignments.npy").unlink()
    made, real = [], stages.cluster_level

    def watched(points, level, number, **options):
        made.append(number)
        return real(points, level, number, **options)

    monkeypatch.setattr(stages, "cluster_level", watched)
    again = stages.cluster_stage(folder, pool, np.arange(60), recipe(), mesh=MESH)
    assert made == [1]
    for a, b in zip(again.parents + again.centroids, tree[0].parents + tree[0].centroids):
        np.testing.assert_array_equal(a, b)


def test_too_few_distinct_images_for_the_upper_level(tmp_path):
    pool = embedded(np.repeat(CENTRES[:3], 20, axis=0))
    message = r"level 2 \(its points are the 3 clusters of level 1 that are not empty\): k is 4"
    with pytest.raises(ConfigError, match=message):
        stages.cluster_stage(tmp_path / "c", pool, np.arange(60), recipe(), mesh=MESH)


def test_a_sample_is_even_over_what_there_is(tree, tmp_path):
    found, which = tree
    kept = np.arange(60)
    chosen = stages.sample_stage(tmp_path / "s", kept, found, recipe())
    assert len(chosen) == 16
    # Five blobs in four clusters: not quite even, but less than half as far from it.
    assert kl_to_uniform(which[chosen], 5) < kl_to_uniform(which, 5) / 2
    with pytest.raises(ConfigError, match=r"\(made from kept: '\w+' there, '\w+' now\)"):
        stages.sample_stage(tmp_path / "s", kept[::-1], found, recipe())


def test_large_seed_sets_bring_neighbours_and_small_ones_clusters(tree, tmp_path, monkeypatch):
    found, which = tree
    pool, kept = embedded(blobs()[0]), np.arange(60)
    seeds = embedded(blobs(1, (0, 0, 5, 0, 0))[0], "seeds")

    def retrieve(name, **changes):
        chosen = dataclasses.replace(recipe().retrieve, **changes)
        settings = dataclasses.replace(recipe(), retrieve=chosen)
        folder = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        return stages.retrieve_stage(folder, name, seeds, pool, kept, found, settings, mesh=MESH)

    chosen = retrieve("a", large=5)
    assert set(which[chosen]) == {2}
    assert len(chosen) <= 10  # two of each of five
    assert len(retrieve("b", neighbours_of=(("b", 1),))) <= 5
    searches = watch(monkeypatch, retrieval)
    np.testing.assert_array_equal(retrieve("a", large=5, probes=4), chosen)
    assert searches == [(5, 60, 4)]
    assert len(retrieve("a", budget=3)) == 3
    # All the images of clusters with more than 2 seeds; with more than 5 there is none.
    asked = retrieve("a", large=6, more_than=0)
    assert set(which[asked]) == {2}
    assert len(retrieve("a", large=6, more_than=5)) == 0
    whole = retrieve("a", large=6, level=2, more_than=4)
    clusters = found.clusters(1)
    assert set(clusters[whole]) == {np.bincount(clusters[which == 2]).argmax()}


def test_climbing():
    levels = [np.array([0, 2, 1, 2]), np.array([1, 0, 1]), np.array([0, 0])]
    assert stages.climb(levels[:1]).tolist() == [0, 2, 1, 2]
    assert stages.climb(levels[:2]).tolist() == [1, 1, 0, 1]
    assert stages.climb(levels).tolist() == [0, 0, 0, 0]


def test_a_digest_is_of_content_shape_and_dtype():
    x = np.arange(6)
    digests = {stages.digest(y) for y in (x, x.reshape(2, 3), x.astype(np.int32), x[::-1])}
    assert len(digests) == 4
    assert stages.digest(x[::2]) == stages.digest(x[::2].copy())
