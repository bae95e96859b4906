import dataclasses

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.record import SourceError
from dinov3_jax.evals.retrieval.metrics import Query, rankings
from dinov3_jax.evals.retrieval.own import RetrievalSettings, evaluate, score
from tests.data.benchmarks import retrieval_layouts as layouts
from tests.features.models import mesh, vit

NONE = np.array([], int)


@pytest.fixture(scope="module")
def model():
    return vit()


def truth(labels, database):
    return [Query(np.flatnonzero(database == label), NONE) for label in labels]


def test_a_perfect_feature_finds_all():
    labels = np.arange(12) % 3
    features = np.eye(3)[labels]
    metrics, precision, first = score(rankings(features, features), truth(labels, labels), k=(1, 4))
    assert metrics == {"map": 100, "recall@1": 100, "recall@4": 100, "queries": 12, "skipped": 0}
    assert (precision == 1).all()
    assert {len(row) for row in first} == {5}


def test_a_useless_feature_is_chance():
    """Equal features: rows in order. One positive at place p of n: 1 / p; recall@k = k / n."""
    n = 10
    orders = rankings(np.ones((n, 2)), np.ones((n, 2)))
    metrics, *_ = score(orders, truth(np.arange(n), np.arange(n)), k=(1, 5))
    assert metrics["map"] == pytest.approx(100 * np.mean(1 / np.arange(1, n + 1)))
    assert metrics["recall@1"] == pytest.approx(10)
    assert metrics["recall@5"] == pytest.approx(50)


def test_equal_images_are_found_by_any_model(model, tmp_path):
    settings = RetrievalSettings(str(layouts.classes(tmp_path)), size=16, batch=4)
    result = evaluate(model, settings, mesh(1))
    assert result.metrics["map"] == result.metrics["recall@1"] == 100.0
    assert result.metrics["queries"] == 2.0
    assert result.metrics["skipped"] == 1.0
    assert "recall@5" not in result.metrics  # the database has 4 images
    assert [picture.pixels.shape for picture in result.pictures] == [(80, 80 * 5, 3)] * 2
    # Rankings depend on near ties alone, and there are none: the same numbers.
    assert evaluate(model, settings, mesh(8)).metrics == result.metrics


def test_pairs_and_scales(model, tmp_path):
    settings = RetrievalSettings(
        str(layouts.pairs(tmp_path)), size=16, batch=4, scales=(1.0, 0.5), k=(1,)
    )
    metrics = evaluate(model, settings, mesh(1)).metrics
    assert metrics == {"map": 100.0, "recall@1": 100.0, "queries": 2.0, "skipped": 0.0}


def test_mistakes(model, tmp_path):
    settings = RetrievalSettings(str(layouts.classes(tmp_path)), size=16)
    for changes, message in (({"size": 18}, "size is 18"), ({"k": (0,)}, "k is")):
        with pytest.raises(ConfigError, match=message):
            evaluate(model, dataclasses.replace(settings, **changes), mesh(1))
    for name in "ab":
        (tmp_path / "database" / name).rename(tmp_path / "database" / f"{name}{name}")
    with pytest.raises(SourceError, match=r"none of 3 queries .* has a positive"):
        evaluate(model, settings, mesh(1))
    (tmp_path / "queries" / "c" / "0.png").write_bytes(b"")
    with pytest.raises(SourceError, match="none of 3"):
        evaluate(model, settings, mesh(1))
