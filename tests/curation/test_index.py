import sys

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.curation import index as module
from dinov3_jax.curation.dedup import duplicates
from dinov3_jax.curation.index import nearest_approximate
from dinov3_jax.curation.neighbours import nearest
from dinov3_jax.curation.retrieval import retrieve
from tests.curation.meshes import mesh_of


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", reason="no faiss: pip install -e .[index]")


def clustered(*, q=60, n=4000, D=24, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, D))[rng.integers(0, 50, n + q)] + 0.5 * rng.normal(size=(n + q, D))
    return x[:q].astype(np.float32), x[q:].astype(np.float32)


def exact(queries, pool, k):
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    cosine = unit(queries.astype(float)) @ unit(pool.astype(float)).T
    index = np.argsort(-cosine, axis=1)[:, :k]
    return index, np.take_along_axis(cosine, index, 1)


def test_all_lists_are_an_exact_search(faiss):
    queries, pool = clustered()
    index, cosine = nearest_approximate(queries, pool, 9, probes=1000)
    expected, value = exact(queries, pool, 9)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(cosine, value, atol=1e-6)  # float32


def test_more_lists_find_more_and_what_is_found_is_right(faiss):
    queries, pool = clustered()
    expected, value = exact(queries, pool, 9)
    recalls = []
    for probes in (1, 8):
        index, cosine = nearest_approximate(queries, pool, 9, probes=probes)
        recalls.append(np.mean([np.isin(a, b).mean() for a, b in zip(index, expected)]))
        assert (np.diff(cosine, axis=1) <= 0).all()
        assert (cosine <= value + 1e-6).all()
    # Random lists would find 1 and 8 of 102: 50 clusters of 80 rows fill one or two lists each.
    assert 0.4 < recalls[0] < recalls[1]
    assert recalls[1] > 0.95


def test_short_lists_are_made_up_for(faiss, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 17)  # several blocks of queries and of the pool
    queries, pool = clustered(n=400)
    index, _ = nearest_approximate(queries, pool, 300, probes=1)  # lists have some 40 rows
    np.testing.assert_array_equal(index, exact(queries, pool, 300)[0])


def test_duplicates_and_retrieval_take_probes(faiss):
    queries, pool = clustered(n=900)
    twice = np.concatenate([pool, pool])
    group = duplicates(twice, mesh=mesh_of(1), threshold=0.9999, neighbours=2, probes=3)
    np.testing.assert_array_equal(group, np.tile(np.arange(900), 2))
    exactly = retrieve(queries, pool, 3, budget=900, mesh=mesh_of(1))
    got = retrieve(queries, pool, 3, budget=900, mesh=mesh_of(1), probes=1000)
    np.testing.assert_array_equal(got, exactly)


def test_errors_say_what_was_wrong(faiss):
    queries, pool = clustered()
    with pytest.raises(ValueError, match="probes is 0"):
        nearest(queries, pool, 3, mesh=mesh_of(1), probes=0)
    with pytest.raises(ValueError, match="k is 4001"):
        nearest(queries, pool, 4001, mesh=mesh_of(1), probes=2)
    pool[3, 2] = np.nan
    with pytest.raises(ValueError, match="pool: row 3 is not finite"):
        nearest(queries, pool, 3, mesh=mesh_of(1), probes=2)


def test_without_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    queries, pool = clustered()
    with pytest.raises(ConfigError, match=r"pip install 'dinov3_jax\[index\]'"):
        nearest(queries, pool, 3, mesh=mesh_of(1), probes=2)
