import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from dinov3_jax.config import ConfigError
from dinov3_jax.evals.classification.metrics import eleven_point, multilabel
from dinov3_jax.evals.classification.voc07 import Voc07Settings, decide, evaluate, fit
from tests.data.benchmarks.voc07 import write_voc07
from tests.features.models import mesh, vit

HOW = {"max_iter": 200, "tol": 1e-6}


def labelled(n=48, seed=0):
    """Features whose column c is high where class c is, among noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (n, 3))
    return np.concatenate([labels, rng.normal(size=(n, 2))], axis=1) + 0.0, labels


def test_it_is_the_one_versus_rest_of_scikit_learn():
    features, labels = labelled()
    oracle = OneVsRestClassifier(LogisticRegression(C=2.0, **HOW)).fit(features, labels)
    found = decide(fit(features, labels, 2.0, **HOW), features)
    np.testing.assert_allclose(found, oracle.decision_function(features), rtol=1e-12)


def test_images_that_do_not_count_are_not_fitted():
    features, labels = labelled()
    odd, marked = features.copy(), labels.copy()
    odd[:5, 0] = 100.0
    marked[:5] = -1
    found = decide(fit(odd, marked, 1.0, **HOW), features)
    expected = decide(fit(features[5:], labels[5:], 1.0, **HOW), features)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_perfect_features_score_100_and_useless_ones_their_share():
    features, labels = labelled()
    test, test_labels = labelled(seed=1)
    score = lambda fits, x: multilabel(decide(fits, x), test_labels, metric=eleven_point)  # noqa: E731
    assert score(fit(features, labels, 10.0, **HOW), test) == 100.0
    # All images at one score: precision is the share of the class, at every recall.
    share = 100 * test_labels.mean(axis=0).mean()
    assert score(fit(0 * features, labels, 10.0, **HOW), 0 * test) == pytest.approx(share)


def test_end_to_end_and_the_same_on_eight_devices(tmp_path):
    data = write_voc07(tmp_path)
    settings = Voc07Settings(data, resize=8, crop=8, C=(1.0,), max_iter=20, tol=1e-3, batch=8)
    one, eight = (evaluate(vit(), settings, mesh(n)).metrics for n in (1, 8))
    assert one["map"] > 60  # of brightness, and no class is in more than half of the images
    # Features differ by the order of float32 sums; log-odds then by more, but not their order.
    assert {k: v for k, v in one.items() if k != "unfinished"} == pytest.approx(
        {k: v for k, v in eight.items() if k != "unfinished"}
    )
    several = Voc07Settings(data, resize=8, crop=8, C=(1e-3, 1.0), max_iter=20, tol=1e-3, batch=8)
    result = evaluate(vit(), several, mesh(1))
    assert result.pictures[0].caption == "Mean 11-point average precision by C, on val"
    with pytest.raises(ConfigError, match="all positive"):
        evaluate(vit(), Voc07Settings(data, resize=8, crop=8, C=(0.0,)), mesh(1))


def test_classes_without_an_image_are_refused():
    features, labels = labelled()
    with pytest.raises(ValueError, match="class 1 is in 0 of 48 images"):
        fit(features, labels * [1, 0, 1], 1.0, **HOW)
