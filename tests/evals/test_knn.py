import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from dinov3_jax.evals.knn import CHUNK, knn_accuracy, knn_predict


def random_set(*, m=120, q=40, width=16, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    bank, queries = rng.normal(size=(m, width)), rng.normal(size=(q, width))
    return bank, rng.integers(0, classes, m), queries


@pytest.mark.parametrize("k", [1, 5, 20])
def test_agrees_with_scikit_learn(k):
    bank, labels, queries = random_set(q=CHUNK + 3)  # more than one tile, the last one padded
    oracle = KNeighborsClassifier(
        k,
        metric="cosine",
        weights=lambda distance: np.exp((1 - distance) / 0.07),
        algorithm="brute",
    ).fit(bank, labels)
    predicted = knn_predict(bank, labels, queries, classes=5, k=k)
    # Random data has no ties wider than float32 rounding at this seed, so all must agree.
    np.testing.assert_array_equal(predicted, oracle.predict(queries))


def test_orthonormal_prototypes_are_perfect():
    bank = np.repeat(np.eye(6), 4, axis=0)  # [24, 6]
    labels = np.repeat(np.arange(6), 4)
    queries = np.eye(6) * 1e3  # cosine ignores length
    assert knn_accuracy(bank, labels, queries, np.arange(6), classes=6, k=4) == 100.0
    assert knn_accuracy(bank, labels, queries, (np.arange(6) + 1) % 6, classes=6, k=4) == 0.0


def test_planted_wrong_neighbours_are_counted():
    bank = np.concatenate([np.eye(4), np.eye(4) + 0.1])
    labels = np.concatenate([[0, 1, 2, 0], np.arange(4)])  # the exact copy of class 3 says 0
    accuracy = knn_accuracy(bank, labels, np.eye(4), np.arange(4), classes=4, k=1)
    assert accuracy == 75.0


def test_temperature_decides_between_nearest_and_majority():
    bank = np.array([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    labels, query = np.array([0, 1, 1]), np.array([[1.0, 0.0]])
    # Votes: e^(1/T) for class 0 against 2 e^(0.8/T) for class 1; equal at T = 0.2 / ln 2 = 0.289.
    assert knn_predict(bank, labels, query, classes=2, k=3, temperature=0.28) == [0]
    assert knn_predict(bank, labels, query, classes=2, k=3, temperature=0.30) == [1]


def test_invariant_to_rotation_scale_and_bank_order():
    bank, labels, queries = random_set()
    expected = knn_predict(bank, labels, queries, classes=5, k=7)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0]
    order = np.random.default_rng(2).permutation(len(bank))
    moved = knn_predict(
        3 * (bank @ rotation)[order], labels[order], queries @ rotation, classes=5, k=7
    )
    np.testing.assert_array_equal(moved, expected)


def test_k_is_clipped_to_the_bank():
    bank, labels, queries = random_set(m=6)
    np.testing.assert_array_equal(
        knn_predict(bank, labels, queries, classes=5, k=1000),
        knn_predict(bank, labels, queries, classes=5, k=6),
    )


def test_no_queries():
    bank, labels, queries = random_set()
    assert knn_predict(bank, labels, queries[:0], classes=5, k=3).shape == (0,)
    with pytest.raises(ValueError, match="0 queries"):
        knn_accuracy(bank, labels, queries[:0], labels[:0], classes=5, k=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bank": np.zeros((0, 16)), "bank_labels": np.zeros(0, int)},
            "bank has 0 images",
        ),
        ({"bank_labels": np.zeros(7, int)}, r"shape \(7,\)"),
        ({"bank_labels": np.full(120, 5)}, "wanted 0 to 4"),
        ({"bank_labels": np.zeros(120)}, "float64, wanted integers"),
        ({"queries": np.full((3, 16), np.nan)}, "queries: 3 of 3 rows are not finite"),
        ({"queries": np.zeros((3, 15))}, "D = 16, queries have 15"),
        ({"k": 0}, "k = 0"),
    ],
)
def test_errors_say_what_was_wrong(change, message):
    bank, labels, queries = random_set()
    arguments = {
        "bank": bank,
        "bank_labels": labels,
        "queries": queries,
        "classes": 5,
        "k": 3,
    }
    with pytest.raises(ValueError, match=message):
        knn_predict(**(arguments | change))
