import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from dinov3_jax.evals.classification.logistic import (
    GRID,
    LogisticSettings,
    evaluate,
    fit_best,
    hold_out,
    top1,
)
from dinov3_jax.evals.suite import EVALUATIONS
from tests.data.benchmarks.folders import write_class_folders
from tests.features.models import mesh, vit

HOW = {"max_iter": 100, "tol": 1e-6}


def blobs(n, *, classes=3, width=4, seed=0, spread=1.0):
    """Gaussians around the corners of a simplex."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return np.eye(classes, width)[labels] + spread * rng.normal(size=(n, width)), labels


def test_the_grid():
    assert len(GRID) == 45
    np.testing.assert_allclose(GRID[::11], 10.0 ** np.array([-6, -3.25, -0.5, 2.25, 5]))


@pytest.mark.parametrize("refit", [True, False])
def test_is_scikit_learns_with_the_c_that_is_best_on_val(refit):
    (train, labels), (val, val_labels) = blobs(60), blobs(30, seed=1)
    values = (1e3, 1e-4, 0.1, 1.0)
    scores = {
        C: LogisticRegression(C=C, **HOW).fit(train, labels).score(val, val_labels) for C in values
    }
    best = min(C for C in values if scores[C] == max(scores.values()))
    fit, tried = fit_best(
        train, labels, val, val_labels, classes=3, values=values, refit=refit, **HOW
    )
    assert best == fit.C
    assert list(tried) == sorted(values)
    assert tried == pytest.approx({C: 100 * score for C, score in scores.items()})
    if refit:
        train, labels = np.concatenate([train, val]), np.concatenate([labels, val_labels])
    oracle = LogisticRegression(C=best, **HOW).fit(train, labels)
    np.testing.assert_array_equal(fit.classifier.coef_, oracle.coef_)


def test_perfect_features_score_100_and_useless_ones_chance():
    (train, labels), (test, test_labels) = blobs(60, spread=0.01), blobs(30, spread=0.01, seed=1)
    arguments = {"classes": 3, "values": (10.0,), **HOW}
    fit, _ = fit_best(train, labels, test[:0], test_labels[:0], **arguments)
    assert top1(fit.classifier, test, test_labels) == 100.0
    fit, _ = fit_best(0 * train, labels, test[:0], test_labels[:0], **arguments)
    assert top1(fit.classifier, 0 * test, test_labels) == pytest.approx(100 / 3)


def test_fits_that_are_cut_short_are_counted():
    (train, labels), (val, val_labels) = blobs(60), blobs(30, seed=1)
    fit, _ = fit_best(
        train, labels, val, val_labels, classes=3, values=(1e-6, 1.0, 1e5), max_iter=1, tol=1e-12
    )
    assert fit.unfinished == 4  # three values, and once more with val


def test_a_tenth_of_each_class_is_held_out_and_singletons_stay():
    labels = np.array([0] * 40 + [1] * 5 + [2])
    held = hold_out(labels, 0.1, seed=0)
    assert np.bincount(labels[held], minlength=3).tolist() == [4, 1, 0]
    assert not np.array_equal(held, hold_out(labels, 0.1, seed=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": np.full((6, 4), np.nan)}, "train: 6 of 6 rows are not finite"),
        ({"train_labels": np.arange(6)}, "span 0 to 5, wanted 0 to 2"),
        ({"train_labels": np.zeros(6, int)}, "one class alone"),
        ({"val_labels": np.zeros(2, int)}, r"shape \(2,\), wanted one label an image: \(3,\)"),
        ({"val": np.zeros((0, 4)), "val_labels": np.zeros(0, int)}, "no image to choose one of 2"),
        ({"values": ()}, "wanted some"),
        ({"values": (0.0, 1.0)}, "all positive"),
    ],
)
def test_errors_say_what_was_wrong(change, message):
    (train, labels), (val, val_labels) = blobs(6), blobs(3)
    arguments = {
        "train": train,
        "train_labels": labels,
        "val": val,
        "val_labels": val_labels,
        "classes": 3,
        "values": (0.1, 1.0),
    }
    with pytest.raises(ValueError, match=message):
        fit_best(**(arguments | change))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    data = write_class_folders(tmp_path_factory.mktemp("data"), train=5, test=2)
    return LogisticSettings(data, resize=8, crop=8, C=(0.01, 100.0), batch=8)


def test_on_images_one_and_eight_devices_agree(settings):
    results = [evaluate(vit(), settings, mesh(devices)).metrics for devices in (1, 8)]
    assert results[0].keys() == {"top1", "mean_per_class", "C", "unfinished", "val_top1"}
    # Greys by class: also a random network tells them apart, whatever the rounding.
    assert results[0]["top1"] == results[1]["top1"] == 100.0
    assert results[0]["mean_per_class"] == results[0]["val_top1"] == 100.0


def test_pictures_are_the_choice_of_c_and_mistakes(tmp_path):
    """Of a test split whose folders are exchanged all is wrong."""
    data = write_class_folders(tmp_path, train=5, test=2)
    names = sorted(path.name for path in (tmp_path / "test").iterdir())
    for old, new in zip(names, [*names[1:], names[0]], strict=True):
        (tmp_path / "test" / old).rename(tmp_path / f"{new}_test")
    for name in names:
        (tmp_path / f"{name}_test").rename(tmp_path / "test" / name)
    settings = LogisticSettings(data, resize=8, crop=8, C=(0.01, 100.0), batch=8)
    result = evaluate(vit(), settings, mesh())
    assert result.metrics["top1"] == 0.0
    curve, *wrong = result.pictures
    assert curve.caption == "Top-1 by C, on images of train/ held out"
    assert len(wrong) == 4
    for picture in wrong:
        own, _, taken = picture.caption.partition(" (")[0].partition(", taken for ")
        assert names.index(own) == (names.index(taken) + 1) % len(names)
    single = dataclasses.replace(settings, C=(100.0,), shots=2, draws=2)
    assert len(evaluate(vit(), single, mesh()).pictures) == 4  # there is no choice to draw


def test_few_shots_and_a_val_folder(tmp_path):
    data = write_class_folders(tmp_path, train=3, val=1, test=2)
    few = LogisticSettings(data, resize=8, crop=8, C=(0.1, 100.0), shots=2, draws=2, batch=8)
    metrics = evaluate(vit(), few, mesh()).metrics
    assert metrics["top1"] == 100.0
    assert metrics["top1_std"] == 0.0
    single = dataclasses.replace(few, C=(1.0,), shots=1)
    assert evaluate(vit(), single, mesh()).metrics["C"] == 1.0


def test_one_shot_without_val_cannot_choose(settings):
    with pytest.raises(ValueError, match="no image to choose"):
        evaluate(vit(), dataclasses.replace(settings, shots=1), mesh())


def test_the_main_metric_is_there():
    assert EVALUATIONS["logistic"].main == "top1"
