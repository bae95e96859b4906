import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from dinov3_jax.curation.retrieval import retrieve, retrieve_clusters
from tests.curation.meshes import mesh_of


def sets(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(40, 16)).astype(np.float32), rng.normal(size=(900, 16)).astype(
        np.float32
    )


def test_all_neighbours_where_the_budget_allows():
    seeds, pool = sets()
    oracle = NearestNeighbors(n_neighbors=4, metric="cosine", algorithm="brute").fit(pool)
    expected = np.unique(oracle.kneighbors(seeds, return_distance=False))
    np.testing.assert_array_equal(retrieve(seeds, pool, 4, budget=900, mesh=mesh_of(8)), expected)


@pytest.mark.parametrize("budget", [1, 25, 60, 100])
def test_a_budget_takes_first_neighbours_first(budget):
    """Against a loop over places, then similarities."""
    seeds, pool = sets()
    oracle = NearestNeighbors(n_neighbors=4, metric="cosine", algorithm="brute").fit(pool)
    distance, index = oracle.kneighbors(seeds)
    expected = []
    for place in range(4):
        for row in np.argsort(distance[:, place]):
            if index[row, place] not in expected:
                expected.append(index[row, place])
    got = retrieve(seeds, pool, 4, budget=budget, mesh=mesh_of(8))
    np.testing.assert_array_equal(got, np.sort(expected[:budget]))


def test_a_budget_larger_than_the_pool_is_refused():
    seeds, pool = sets()
    with pytest.raises(ValueError, match="budget is 901, the pool has 900"):
        retrieve(seeds, pool, 4, budget=901, mesh=mesh_of(1))


def test_clusters_with_enough_seeds_are_drawn_from():
    pool = np.repeat([0, 1, 2, 3], [500, 30, 400, 70])
    seeds = np.repeat([0, 1, 2], [4, 9, 3])  # the third has not more than 3
    got = retrieve_clusters(seeds, pool, each=100, seed=0)
    np.testing.assert_array_equal(np.bincount(pool[got], minlength=4), [100, 30, 0, 0])
    assert len(np.unique(got)) == len(got)
    np.testing.assert_array_equal(got, retrieve_clusters(seeds, pool, each=100, seed=0))
    assert not np.array_equal(got, retrieve_clusters(seeds, pool, each=100, seed=1))


def test_a_budget_is_shared_evenly_among_clusters():
    pool = np.repeat([0, 1, 2], [500, 10, 400])
    got = retrieve_clusters(np.repeat([0, 1, 2], 4), pool, each=300, budget=110, seed=0)
    np.testing.assert_array_equal(np.bincount(pool[got]), [50, 10, 50])


def test_no_cluster_has_enough_seeds():
    assert len(retrieve_clusters(np.array([0, 1]), np.array([0, 0, 1]), seed=0)) == 0


@pytest.mark.parametrize("change", [{"more_than": -1}, {"each": 0}, {"budget": 0}])
def test_numbers_out_of_range(change):
    with pytest.raises(ValueError, match="wanted at least 0, 1 and 1"):
        retrieve_clusters(np.array([0]), np.array([0]), **({"seed": 0} | change))


def test_cluster_numbers_below_zero():
    with pytest.raises(ValueError, match="below 0"):
        retrieve_clusters(np.array([-1]), np.array([0]), seed=0)
