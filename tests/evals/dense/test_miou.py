import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, recall_score

from dinov3_jax.evals.dense.miou import confusion, iou, scores

EXACT = dict(rtol=1e-12)  # the same quotients of integers


def test_two_classes_by_hand():
    labels = np.array([0, 0, 0, 1])
    predicted = np.array([0, 0, 1, 1])
    counts = confusion(labels, predicted, 2)
    np.testing.assert_array_equal(counts, [[2, 1], [0, 1]])
    np.testing.assert_allclose(iou(counts), [100 * 2 / 3, 50], **EXACT)
    got = scores(counts)
    assert got["aacc"] == 75
    np.testing.assert_allclose(got["miou"], 100 * 7 / 12, **EXACT)
    np.testing.assert_allclose(got["macc"], 100 * (2 / 3 + 1) / 2, **EXACT)
    np.testing.assert_allclose(got["mdice"], 100 * (4 / 5 + 2 / 3) / 2, **EXACT)


def test_scikit_learn_agrees():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 6, (2, 3, 50, 40))
    counts = confusion(labels, predicted, 6)
    flat = labels.ravel(), predicted.ravel()
    np.testing.assert_array_equal(counts, confusion_matrix(*flat))
    np.testing.assert_allclose(iou(counts), 100 * jaccard_score(*flat, average=None), **EXACT)
    got = scores(counts)
    for name, oracle in (("miou", jaccard_score), ("macc", recall_score), ("mdice", f1_score)):
        np.testing.assert_allclose(got[name], 100 * oracle(*flat, average="macro"), **EXACT)


def test_a_class_that_is_nowhere_is_left_out():
    labels, predicted = np.array([0, 2]), np.array([0, 2])
    counts = confusion(labels, predicted, 4)
    np.testing.assert_array_equal(np.isnan(iou(counts)), [False, True, False, True])
    assert scores(counts) == {"miou": 100, "aacc": 100, "macc": 100, "mdice": 100}


def test_a_class_that_is_only_called_counts_as_zero():
    counts = confusion(np.array([0, 0]), np.array([0, 1]), 3)
    np.testing.assert_array_equal(iou(counts), [50, 0, np.nan])
    assert scores(counts)["miou"] == 25
    assert scores(counts)["macc"] == 50  # no pixel of class 1: nothing to be right about


def test_ignored_pixels_have_no_effect():
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 3, (2, 20))
    more = np.append(labels, [255, 255]), np.append(predicted, [0, 2])
    np.testing.assert_array_equal(confusion(*more, 3), confusion(labels, predicted, 3))


def test_images_add_up():
    rng = np.random.default_rng(2)
    labels, predicted = rng.integers(0, 3, (2, 2, 20))
    both = sum(confusion(a, b, 3) for a, b in zip(labels, predicted))
    np.testing.assert_array_equal(both, confusion(labels, predicted, 3))


def test_bad_input():
    with pytest.raises(ValueError, match=r"labels are \(3,\), predicted \(2,\)"):
        confusion(np.zeros(3, int), np.zeros(2, int), 2)
    with pytest.raises(ValueError, match="labels span 0 to 2, wanted 0 to 1"):
        confusion(np.array([0, 2]), np.array([0, 0]), 2)
    with pytest.raises(ValueError, match="predicted span -1 to 0, wanted 0 to 1"):
        confusion(np.array([0, 1]), np.array([0, -1]), 2)
    with pytest.raises(ValueError, match="no pixel has a label: all are 255"):
        scores(confusion(np.full(4, 255), np.zeros(4, int), 2))
