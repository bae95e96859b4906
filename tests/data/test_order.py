import numpy as np
import pytest

from dinov3_jax.data import order

EDGES = [4**k + d for k in (5, 6, 8, 9) for d in (-1, 0, 1)] + [1009, 65_521, 60_000]


@pytest.mark.parametrize("sizes", [range(1, 301), EDGES], ids=["small", "edges"])
def test_permute_is_a_bijection(sizes):
    for size in sizes:
        seen = order.permute(np.arange(size), size=size, seed=size % 5, epoch=size % 3)
        assert np.array_equal(np.sort(seen), np.arange(size)), size


@pytest.mark.parametrize("size", [1_000_003, 1_689_000_000, 2**31])
def test_permute_has_no_serial_correlation(size):
    for seed in range(3):
        values = order.permute(np.arange(100_000), size=size, seed=seed, epoch=0).astype(float)
        for lag in range(1, 9):
            correlation = np.corrcoef(values[:-lag], values[lag:])[0, 1]
            # Independent numbers have a standard deviation of 1 / sqrt(100,000) = 0.003 here.
            assert abs(correlation) < 0.03, (seed, lag)


def test_permute_is_stable_between_versions():
    """Resumed runs rely on these numbers; changing them breaks every checkpoint's data order."""
    index = [0, 1, 2, 59_999]
    values = order.permute(index, size=60_000, seed=0, epoch=0)
    assert values.tolist() == [3626, 34328, 53386, 1133]


def test_epochs_and_seeds_are_independent():
    size = 10_000
    runs = {
        (seed, epoch): order.permute(np.arange(size), size=size, seed=seed, epoch=epoch)
        for seed in range(3)
        for epoch in range(3)
    }
    keys = list(runs)
    for i, a in enumerate(keys):
        for b in keys[:i]:
            # Two random permutations agree in 1 place on average, and in 10 once in 10^7.
            assert (runs[a] == runs[b]).sum() < 10, (a, b)


def test_record_index_visits_every_record_once_an_epoch():
    size = 7
    records = order.record_index(np.arange(5 * size), size=size, seed=1).reshape(5, size)
    assert np.array_equal(np.sort(records, axis=1), np.tile(np.arange(size), (5, 1)))
    assert len({tuple(epoch) for epoch in records.tolist()}) == 5


def test_record_index_of_a_part_is_the_part():
    whole = order.record_index(np.arange(1000), size=300, seed=2)
    assert np.array_equal(whole[250:650], order.record_index(range(250, 650), size=300, seed=2))
    assert order.record_index(777, size=300, seed=2) == whole[777]


def test_rng_depends_on_each_argument():
    draws = [
        order.rng(*arguments).random()
        for arguments in [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", 1, 0)]
    ]
    assert len(set(draws)) == len(draws)
    assert order.rng(0, "a", np.int64(1)).random() == draws[0]


def test_hashed_is_uniform():
    counts = np.bincount([order.hashed(10, 0, "x", i) for i in range(10_000)], minlength=10)
    # Standard deviation of a count is sqrt(10,000 * 0.1 * 0.9) = 30; five of them.
    assert np.abs(counts - 1000).max() < 150


@pytest.mark.parametrize("size", [0, -3])
def test_size_must_be_positive(size):
    with pytest.raises(ValueError, match=f"size is {size}"):
        order.permute([0], size=size, seed=0, epoch=0)


def test_index_must_be_in_range():
    with pytest.raises(ValueError, match=r"index spans 0\.\.10, wanted 0\.\.9"):
        order.permute([0, 10], size=10, seed=0, epoch=0)
