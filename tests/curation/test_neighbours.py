import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from dinov3_jax.curation.neighbours import nearest
from dinov3_jax.curation.stream import ROWS
from tests.curation.meshes import mesh_of


def random_set(*, q=70, n=3000, D=24, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(q, D)).astype(np.float32),
        rng.normal(size=(n, D)).astype(np.float32),
    )


@pytest.mark.parametrize(("q", "n", "k"), [(70, 3000, 10), (1, 5, 5), (ROWS + 9, 300, 3)])
def test_agrees_with_scikit_learn(q, n, k):
    queries, pool = random_set(q=q, n=n)
    oracle = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute")
    distance, expected = oracle.fit(pool.astype(float)).kneighbors(queries.astype(float))
    index, cosine = nearest(queries, pool, k, mesh=mesh_of(8))
    np.testing.assert_array_equal(index, expected)
    # float32 sums of 24 products at most 1 against float64.
    np.testing.assert_allclose(cosine, 1 - distance, atol=1e-6)


def test_one_and_eight_devices_agree_to_the_bit():
    queries, pool = random_set(n=17_001)  # two chunks, the last one filled up
    for one, eight in zip(
        nearest(queries, pool, 7, mesh=mesh_of(1)), nearest(queries, pool, 7, mesh=mesh_of(8))
    ):
        np.testing.assert_array_equal(one, eight)


@pytest.mark.parametrize("devices", [1, 8])
def test_among_equals_the_lower_row_is_first(devices):
    queries, pool = random_set(n=2500)
    copies = 8  # two chunks: a device holds rows from before and behind those of another
    index, cosine = nearest(queries, np.tile(pool, (copies, 1)), 20, mesh=mesh_of(devices))
    once, expected = nearest(queries, pool, 3, mesh=mesh_of(devices))
    rows = (once[:, :, None] + 2500 * np.arange(copies)).reshape(len(queries), -1)
    np.testing.assert_array_equal(index, rows[:, :20])
    np.testing.assert_array_equal(cosine, np.repeat(expected, copies, axis=1)[:, :20])


def test_length_does_not_count_and_zeros_are_like_nothing():
    queries, pool = random_set(n=300)
    pool[5] = 0
    index, cosine = nearest(1e-3 * queries, 1e3 * pool, len(pool), mesh=mesh_of(1))
    assert np.abs(cosine).max() < 1 + 1e-6  # float32
    assert (cosine[index == 5] == 0).all()


def broken(x):
    x = x.copy()
    x[4] = np.inf
    return x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k is 0, the pool has 3000"),
        ({"k": 3001}, "k is 3001, the pool has 3000"),
        ({"queries": np.zeros((3, 5), np.float32)}, "D = 5, the pool has 24"),
        ({"pool": np.zeros((0, 24), np.float32)}, r"pool has shape \(0, 24\)"),
        ({"queries": broken(random_set()[0])}, "queries: row 4 is not finite"),
        ({"pool": broken(random_set()[1])}, "pool: row 4 is not finite"),
    ],
)
def test_errors_say_what_was_wrong(change, message):
    queries, pool = random_set()
    with pytest.raises(ValueError, match=message):
        nearest(**({"queries": queries, "pool": pool, "k": 3, "mesh": mesh_of(1)} | change))
