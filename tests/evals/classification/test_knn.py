import dataclasses

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from dinov3_jax.config import ConfigError
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.classification.knn import KnnSettings, accuracy, classify, evaluate
from dinov3_jax.evals.suite import EVALUATIONS
from tests.curation.meshes import mesh_of
from tests.data.benchmarks.folders import write_class_folders
from tests.features.models import mesh, vit


def random_set(*, m=120, q=40, width=16, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    bank, queries = rng.normal(size=(m, width)), rng.normal(size=(q, width))
    return bank, rng.integers(0, classes, m), queries


def predict(bank, labels, queries, *, k, classes=5, temperature=0.07, devices=1, skip_first=False):
    predicted, _ = classify(
        bank, labels, queries, classes=classes, neighbours=(k,), mesh=mesh_of(devices),
        temperature=temperature, skip_first=skip_first,
    )  # fmt: skip
    return predicted[min(k, len(bank) - skip_first)][:, 0]


def test_agrees_with_scikit_learn_for_every_k_at_once():
    bank, labels, queries = random_set(q=203)
    predicted, _ = classify(
        bank, labels, queries, classes=5, neighbours=(1, 5, 20), mesh=mesh_of(8)
    )
    assert sorted(predicted) == [1, 5, 20]
    for k, classes in predicted.items():
        oracle = KNeighborsClassifier(
            k,
            metric="cosine",
            weights=lambda distance: np.exp((1 - distance) / 0.07),
            algorithm="brute",
        ).fit(bank, labels)
        # Random data has no ties wider than float32 rounding at this seed, so all must agree.
        np.testing.assert_array_equal(classes[:, 0], oracle.predict(queries))
        votes = np.sort(oracle.predict_proba(queries), axis=1)[:, ::-1]
        np.testing.assert_array_equal(classes >= 0, votes > 0)


def test_orthonormal_prototypes_are_perfect():
    bank = np.repeat(np.eye(6), 4, axis=0)  # [24, 6]
    labels = np.repeat(np.arange(6), 4)
    queries = np.eye(6) * 1e3  # cosine ignores length
    right, wrong = np.arange(6), (np.arange(6) + 1) % 6
    assert accuracy(bank, labels, queries, right, classes=6, k=4, mesh=mesh_of(1)) == 100.0
    assert accuracy(bank, labels, queries, wrong, classes=6, k=4, mesh=mesh_of(1)) == 0.0


def test_planted_wrong_neighbours_are_counted():
    bank = np.concatenate([np.eye(4), np.eye(4) + 0.1])
    labels = np.concatenate([[0, 1, 2, 0], np.arange(4)])  # the exact copy of class 3 says 0
    found = accuracy(bank, labels, np.eye(4), np.arange(4), classes=4, k=1, mesh=mesh_of(1))
    assert found == 75.0


def test_a_query_in_the_bank_does_not_vote_for_itself():
    bank, labels = np.concatenate([np.eye(4), np.eye(4) + 0.1]), np.array([0, 1, 2, 3, 3, 2, 1, 0])
    np.testing.assert_array_equal(predict(bank, labels, np.eye(4), k=1), [0, 1, 2, 3])
    skipped = predict(bank, labels, np.eye(4), k=1, skip_first=True)
    np.testing.assert_array_equal(skipped, [3, 2, 1, 0])


def test_temperature_decides_between_nearest_and_majority():
    bank = np.array([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    labels, query = np.array([0, 1, 1]), np.array([[1.0, 0.0]])
    # Votes: e^(1/T) for class 0 against 2 e^(0.8/T) for class 1; equal at T = 0.2 / ln 2 = 0.289.
    assert predict(bank, labels, query, k=3, temperature=0.28) == [0]
    assert predict(bank, labels, query, k=3, temperature=0.30) == [1]


def test_classes_come_in_the_order_of_their_votes():
    # Cosines to the query 1, .8, .6 and 0; votes at temperature 1: e^1, e^.8, e^.6 + e^0.
    bank = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    predicted, index = classify(
        bank, np.array([4, 2, 0, 0]), np.array([[5.0, 0.0]]), classes=7, neighbours=(2, 9),
        mesh=mesh_of(1), temperature=1.0,
    )  # fmt: skip
    assert predicted[2].tolist() == [[4, 2, -1, -1, -1]]
    assert predicted[4].tolist() == [[0, 4, 2, -1, -1]]  # k is clipped to the bank
    assert index.tolist() == [[0, 1, 2, 3]]


def test_invariant_to_rotation_scale_bank_order_and_devices():
    bank, labels, queries = random_set()
    expected = predict(bank, labels, queries, k=7)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0]
    order = np.random.default_rng(2).permutation(len(bank))
    moved = predict(3 * (bank @ rotation)[order], labels[order], queries @ rotation, k=7, devices=8)
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bank": np.zeros((0, 16)), "bank_labels": np.zeros(0, int)}, "bank has 0 images"),
        ({"bank_labels": np.zeros(7, int)}, r"shape \(7,\)"),
        ({"bank_labels": np.full(120, 5)}, "wanted 0 to 4"),
        ({"bank_labels": np.full(120, -1)}, "span -1 to -1"),
        ({"bank_labels": np.zeros(120)}, "float64, wanted integers"),
        ({"queries": np.full((3, 16), np.nan)}, "queries: 3 of 3 rows are not finite"),
        ({"queries": np.zeros((0, 16))}, "queries has 0 images"),
        ({"queries": np.zeros((3, 15))}, "D = 15, the pool has 16"),
        ({"neighbours": (3, 0)}, r"k = \(3, 0\)"),
        ({"neighbours": ()}, r"k = \(\)"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        (
            {"bank": np.ones((1, 16)), "bank_labels": np.zeros(1, int), "skip_first": True},
            "1 image and skip_first",
        ),
    ],
)
def test_errors_say_what_was_wrong(change, message):
    bank, labels, queries = random_set()
    arguments = {
        "bank": bank,
        "bank_labels": labels,
        "queries": queries,
        "classes": 5,
        "neighbours": (3,),
        "mesh": mesh_of(1),
    }
    with pytest.raises(ValueError, match=message):
        classify(**(arguments | change))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Greys by class: also a random network tells them apart."""
    data = write_class_folders(tmp_path_factory.mktemp("data"), train=4, test=2)
    return KnnSettings(data, resize=8, crop=8, neighbours=(2, 100), batch=8)


def test_on_images_one_and_eight_devices_agree(settings):
    results = [evaluate(vit(), settings, mesh(devices)) for devices in (1, 8)]
    # Features differ by rounding only, far less than the classes do.
    assert results[0].metrics == results[1].metrics
    assert results[0].metrics.keys() == {
        "top1", "top5", "top1_2", "top5_2", "top1_12", "top5_12",
    }  # fmt: skip
    assert results[0].metrics["top1_2"] == 100.0
    assert results[0].metrics["top5"] == 100.0  # there are three classes
    assert len(results[0].pictures) == 2
    assert results[0].pictures[0].pixels.shape == (8, 40, 3)
    assert results[0].pictures[0].caption.startswith("right: ant. First the query")


def test_few_shots_give_mean_and_deviation(settings):
    metrics = evaluate(vit(), dataclasses.replace(settings, shots=1, draws=3), mesh()).metrics
    assert {"top1", "top1_std", "top1_3", "top1_3_std"} <= metrics.keys()
    assert metrics["top1_2"] == 100.0
    assert metrics["top1_2_std"] == 0.0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"crop": 6}, ConfigError, "take 4 or 8"),
        ({"shots": 5}, ConfigError, "class 0 has 4 images"),
        ({"shots": 1, "draws": 0}, ConfigError, "draws is 0"),
        ({"data": "/nowhere"}, SourceError, "/nowhere has no splits"),
    ],
)
def test_settings_that_cannot_be(settings, change, error, message):
    with pytest.raises(error, match=message):
        evaluate(vit(), dataclasses.replace(settings, **change), mesh())


def test_the_main_metric_is_there():
    assert EVALUATIONS["knn"].main == "top1"
