import numpy as np
import pytest

from dinov3_jax.curation.sampling import balanced_sample, kl_to_uniform, rank_within, share


def tree(seed=0):
    """5,000 images in 60 skewed clusters, those in 9, those in 3."""
    rng = np.random.default_rng(seed)
    levels = []
    for below, k in ((5000, 60), (60, 9), (9, 3)):
        weights = 1 / np.arange(1, k + 1)
        extra = rng.choice(k, below - k, p=weights / weights.sum())
        levels.append(rng.permutation(np.concatenate([np.arange(k), extra])))  # none is empty
    return levels


def reference_cap(sizes, budget):
    cap = 0
    while np.minimum(cap + 1, sizes).sum() <= budget and cap < sizes.max():
        cap += 1
    return cap


@pytest.mark.parametrize("budget", [1, 2, 17, 500, 4999, 5000])
def test_the_budget_is_met_exactly_without_duplicates(budget):
    sample = balanced_sample(tree(), budget, seed=0)
    assert len(sample) == len(np.unique(sample)) == budget
    assert sample.min() >= 0
    assert sample.max() < 5000


def test_every_cluster_gets_the_cap_or_all_it_has():
    """Level by level against a loop that raises the cap one by one."""
    levels, budget = tree(), 700
    sample = balanced_sample(levels, budget, seed=0)
    picked, size = np.zeros(5000, int), np.ones(5000, int)
    picked[sample] = 1
    for parents in [*levels, np.zeros(3, int)]:
        k = parents.max() + 1
        above = np.bincount(parents, picked, k).astype(int)
        for parent in range(k):
            mine = parents == parent
            cap = reference_cap(size[mine], above[parent])
            extra = picked[mine] - np.minimum(cap, size[mine])
            assert set(extra) <= {0, 1}
            assert (size[mine][extra == 1] > cap).all()
        picked, size = above, np.bincount(parents, size, k).astype(int)
    assert picked == [budget]


def test_equal_clusters_get_equal_parts_and_small_ones_are_taken_whole():
    images = np.repeat(np.arange(4), [3, 100, 100, 100])
    sample = balanced_sample([images], 93, seed=0)
    np.testing.assert_array_equal(np.bincount(images[sample]), [3, 30, 30, 30])


def test_the_seed_decides():
    first = balanced_sample(tree(), 300, seed=1)
    np.testing.assert_array_equal(first, balanced_sample(tree(), 300, seed=1))
    assert (first != balanced_sample(tree(), 300, seed=2)).any()


def test_leaves_are_drawn_uniformly():
    """1,000 draws of 5 out of 10: each image about 500 times, standard deviation 16."""
    rng = np.random.default_rng(0)
    counts = sum(
        share(np.zeros(10, int), np.ones(10, int), np.array([5]), rng) for _ in range(1000)
    )
    assert abs(counts - 500).max() < 5 * 16


def test_rank_within_is_stable():
    ranks = rank_within(np.array([1, 0, 1, 0, 1]), np.array([2.0, 5.0, 1.0, 5.0, 2.0]))
    np.testing.assert_array_equal(ranks, [1, 0, 0, 1, 2])


def test_kl_to_uniform():
    assert kl_to_uniform(np.arange(8), 8) == pytest.approx(0)
    assert kl_to_uniform(np.zeros(8, int), 8) == pytest.approx(np.log(8))


@pytest.mark.parametrize(
    ("levels", "budget", "message"),
    [
        (tree(), 5001, "budget is 5001, the pool has 5000"),
        (tree(), 0, "budget is 0"),
        ([], 1, "0 levels"),
        ([tree()[0], tree()[2]], 1, "level 1 speaks of 9 clusters, level 0 has 60"),
        ([np.array([0, -1])], 1, "numbers from 0"),
    ],
)
def test_errors_say_what_was_wrong(levels, budget, message):
    with pytest.raises(ValueError, match=message):
        balanced_sample(levels, budget, seed=0)
