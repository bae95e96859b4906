import jax
import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    precision_recall_curve,
    top_k_accuracy_score,
)

from dinov3_jax.evals.classification import metrics


def random_scores(n=60, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, classes)), rng.integers(0, classes, n)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_agrees_with_scikit_learn(k):
    scores, labels = random_scores()
    expected = 100 * top_k_accuracy_score(labels, scores, k=k, labels=range(7))
    assert metrics.accuracy(scores, labels, k=k) == pytest.approx(expected)


def test_equal_scores_are_worth_chance_not_all():
    labels = np.arange(40) % 4
    assert metrics.accuracy(np.zeros((40, 4)), labels) == 25.0
    assert metrics.accuracy(np.zeros((40, 4)), labels, k=3) == 75.0


def test_what_is_not_a_number_never_hits():
    scores = np.array([[np.nan, 0.0, 1.0], [np.nan, np.nan, np.nan]])
    assert metrics.accuracy(scores, np.array([0, 1]), k=2) == 0.0
    assert metrics.mean_per_class(scores, np.array([0, 1])) == 0.0


def test_ranks_are_the_same_inside_a_program():
    scores, labels = random_scores()
    scores = np.round(scores).astype(np.float32)  # many ties
    traced = jax.jit(metrics.ranks)(scores, labels)
    np.testing.assert_array_equal(metrics.ranks(scores, labels), traced)


def test_mean_per_class_agrees_with_scikit_learn():
    scores, labels = random_scores()
    expected = 100 * balanced_accuracy_score(labels, scores.argmax(1))
    assert metrics.mean_per_class(scores, labels) == pytest.approx(expected)


def test_mean_per_class_is_macro_and_accuracy_is_micro():
    labels = np.array([0] * 9 + [1])
    always_zero = np.tile([1.0, 0.0, 0.0], (10, 1))  # class 2 has no image: it is left out
    assert metrics.accuracy(always_zero, labels) == 90.0
    assert metrics.mean_per_class(always_zero, labels) == 50.0


def test_any_match_takes_any_label_and_drops_images_without_one():
    scores = np.eye(4)[[2, 2, 0]]
    assert metrics.any_match(scores, [[1, 2], [1], []]) == 50.0
    with pytest.raises(ValueError, match="none of 3 images"):
        metrics.any_match(scores, [[], [], []])
    with pytest.raises(ValueError, match="3 images have scores, 2 have labels"):
        metrics.any_match(scores, [[1], [2]])


def test_restricted_scores_predict_only_the_classes_left():
    scores, _ = random_scores()
    left = [5, 1]
    predicted = metrics.restrict(scores, left).argmax(1)
    np.testing.assert_array_equal(predicted, np.array([1, 5])[scores[:, [1, 5]].argmax(1)])


@pytest.mark.parametrize("digits", [8, 0])  # 0: many equal scores
def test_average_precision_agrees_with_scikit_learn(digits):
    scores, labels = random_scores(seed=1)
    scores, positive = np.round(scores[:, 0], digits), labels < 3
    expected = 100 * average_precision_score(positive, scores)
    assert metrics.average_precision(scores, positive) == pytest.approx(expected)
    # Theirs is ascending and adds the point of recall 0.
    precision, recall, _ = precision_recall_curve(positive, scores)
    ours = metrics.precision_recall(scores, positive)
    np.testing.assert_allclose(ours[0], precision[:-1][::-1], rtol=1e-12)  # float64 quotients
    np.testing.assert_allclose(ours[1], recall[:-1][::-1], rtol=1e-12)


def test_eleven_point_of_precision_one_up_to_half_the_recall():
    # Two positives: one first, one behind so many others that its precision is 0 in the limit.
    scores = np.arange(2_000_000, 0, -1)
    positive = np.zeros(len(scores), bool)
    positive[[0, -1]] = True
    # 6 of 11 recalls (0 to .5) have precision 1; the rest 2 / 2,000,000.
    assert metrics.eleven_point(scores, positive) == pytest.approx(100 * 6 / 11, abs=1e-4)


def test_eleven_point_is_a_mean_of_largest_precisions():
    # Precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1.
    scores, positive = np.array([3.0, 2.0, 1.0]), np.array([True, False, True])
    assert metrics.eleven_point(scores, positive) == pytest.approx(100 * (6 + 5 * 2 / 3) / 11)


def test_multilabel_agrees_with_scikit_learn_and_leaves_out():
    rng = np.random.default_rng(2)
    scores, labels = rng.normal(size=(50, 6)), rng.integers(0, 2, (50, 6))
    expected = 100 * average_precision_score(labels, scores, average="macro")
    assert metrics.multilabel(scores, labels) == pytest.approx(expected)
    empty = np.concatenate([labels, np.zeros((50, 1), int)], axis=1)  # a class without an image
    padded = np.concatenate([scores, scores[:, :1]], axis=1)
    assert metrics.multilabel(padded, empty) == pytest.approx(expected)
    ignored = np.where(np.arange(50)[:, None] < 20, -1, labels)
    expected = 100 * average_precision_score(labels[20:], scores[20:], average="macro")
    assert metrics.multilabel(scores, ignored) == pytest.approx(expected)


def test_alexnet_has_a_mean_corruption_error_of_100():
    # The published means of the 15 corruptions, in the order of the table.
    published = [88.6, 89.4, 92.3, 82.0, 82.6, 78.6, 79.8, 86.7, 82.7, 81.9, 56.5, 85.3, 64.6, 71.8,
                 60.6]  # fmt: skip
    np.testing.assert_allclose(100 * np.array(list(metrics.ALEXNET.values())), published, atol=0.06)
    spread = np.array([-2, -1, 0, 1, 2])  # levels differ, their mean counts
    alexnet = {name: 100 - 100 * error + spread for name, error in metrics.ALEXNET.items()}
    assert metrics.mean_corruption_error(alexnet) == pytest.approx(100.0)
    perfect = dict.fromkeys(metrics.ALEXNET, [100.0] * 5)
    assert metrics.mean_corruption_error(perfect) == 0.0
    one_right = perfect | {"fog": [0.0] * 5}
    assert metrics.mean_corruption_error(one_right) == pytest.approx(100 / 0.819324 / 15)
    with pytest.raises(ValueError, match=r"missing are \['fog'\], not among them \['spatter'\]"):
        metrics.mean_corruption_error(
            {**{k: v for k, v in perfect.items() if k != "fog"}, "spatter": [1.0]}
        )


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "n >= 1"),
        (np.zeros((2, 3)), np.zeros(3, int), r"labels \(3,\)"),
        (np.zeros((2, 3)), np.zeros(2), "float64, wanted integers"),
        (np.zeros((2, 3)), np.array([0, 3]), "span 0 to 3, wanted 0 to 2"),
    ],
)
def test_errors_say_what_was_wrong(scores, labels, message):
    for function in (metrics.accuracy, metrics.mean_per_class):
        with pytest.raises(ValueError, match=message):
            function(scores, labels)


def test_errors_of_curves():
    with pytest.raises(ValueError, match="no image of 3 is positive"):
        metrics.average_precision(np.arange(3.0), np.zeros(3, bool))
    with pytest.raises(ValueError, match="-1, 0 or 1"):
        metrics.multilabel(np.zeros((2, 2)), np.full((2, 2), 2))
    with pytest.raises(ValueError, match="no label of 2 images is 1"):
        metrics.multilabel(np.zeros((2, 2)), np.zeros((2, 2), int))
