import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from dinov3_jax.evals.retrieval.metrics import (
    Query,
    average_precision,
    average_precisions,
    global_average_precision,
    positive_ranks,
    rankings,
    unit,
)

RNG = np.random.default_rng(0)
NONE = np.array([], int)


@pytest.mark.parametrize(
    ("ranks", "positives", "expected"),
    [([0, 2], 2, 0.7916667), ([1], 1, 0.25), ([0], 1, 1.0), ([0, 1], 2, 1.0), ([], 3, 0.0)],
)
def test_trapezoidal_average_precision(ranks, positives, expected):
    got = average_precision(np.array(ranks), positives, trapezoid=True)
    assert got == pytest.approx(expected, abs=1e-7)  # the digits given


def test_average_precision_is_that_of_scikit_learn():
    for _ in range(20):
        scores, relevant = RNG.permutation(30), RNG.random(30) < 0.3
        ranks = np.flatnonzero(relevant[np.argsort(-scores)])
        got = average_precision(ranks, int(relevant.sum()), trapezoid=False)
        assert got == pytest.approx(average_precision_score(relevant, scores), abs=1e-12)


def test_of_one_positive_it_is_one_over_its_place():
    assert average_precision(np.array([4]), 1, trapezoid=False) == pytest.approx(0.2)


def test_junk_is_as_if_it_were_not_there():
    order = np.array([5, 3, 4, 0, 1, 2])
    junk = Query(np.array([3, 0]), np.array([5, 4]))
    np.testing.assert_array_equal(positive_ranks(order, junk), [0, 1])
    np.testing.assert_array_equal(positive_ranks(order, Query(np.array([3, 0]), NONE)), [1, 3])


def test_queries_without_positives_are_skipped():
    queries = [Query(np.array([1]), NONE), Query(NONE, np.array([0]))]
    got = average_precisions([np.array([1, 0])] * 2, queries, trapezoid=True)
    assert got[0] == 1.0
    assert np.isnan(got[1])
    with pytest.raises(ValueError, match="none of 1 queries has a positive"):
        average_precisions([np.array([0])], queries[1:], trapezoid=True)


def test_rankings_fall_with_the_cosine_and_ties_go_to_the_lower_row():
    database = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    got = list(rankings(np.array([[3.0, 0.0], [0.0, 0.1]]), database))
    np.testing.assert_array_equal(got, [[1, 2, 3, 0], [0, 3, 1, 2]])


def test_chance_of_random_rankings():
    """One positive among n at a random place: the mean of 1 / place is the harmonic number / n."""
    n, count = 20, 4000
    orders = [RNG.permutation(n) for _ in range(count)]
    got = average_precisions(orders, [Query(np.array([0]), NONE)] * count, trapezoid=False)
    # The standard error of 4000 values of deviation below .3 is .005; four of them.
    assert got.mean() == pytest.approx(np.sum(1 / np.arange(1, n + 1)) / n, abs=0.02)


@pytest.mark.parametrize(
    ("queries", "database", "message"),
    [
        (np.zeros((0, 2)), np.zeros((3, 2)), "0 queries and 3 database images"),
        (np.zeros((1, 2)), np.zeros((0, 2)), "1 queries and 0 database images"),
        (np.zeros((1, 2)), np.zeros((3, 4)), r"wanted \[q, D\] and \[n, D\]"),
    ],
)
def test_nothing_to_rank(queries, database, message):
    with pytest.raises(ValueError, match=message):
        list(rankings(queries, database))


def test_more_ranks_than_positives():
    with pytest.raises(ValueError, match="2 ranks of 1 positives"):
        average_precision(np.array([0, 1]), 1, trapezoid=True)


def test_gap_with_a_distractor_in_the_ranking():
    """By confidence: hit, distractor, hit; of two known queries (1 + 2/3) / 2."""
    correct, known = np.array([True, True, True]), np.array([True, True, False])
    confidence = np.array([0.9, 0.1, 0.5])
    got = global_average_precision(correct, confidence, known)
    assert got == pytest.approx((1 + 2 / 3) / 2)
    without = global_average_precision(correct[:2], confidence[:2], known[:2])
    assert without == 1.0
    with pytest.raises(ValueError, match="none of 1 queries"):
        global_average_precision(correct[2:], confidence[2:], known[2:])


def test_unit_keeps_zeros():
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])
