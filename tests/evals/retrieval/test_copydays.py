import dataclasses

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.evals.retrieval.copydays import CopydaysSettings, evaluate, score
from tests.data.benchmarks import retrieval_layouts as layouts
from tests.evals.constructed import constant
from tests.features.models import mesh, vit


@pytest.fixture(scope="module")
def model():
    return vit()


def test_precision_of_one_original():
    """At ranks 0, 1 and 3 the trapezoid gives 1, 1/4 and 1/8; not found at all, 0."""
    orders = [np.array([0, 1, 2, 3])] * 4
    np.testing.assert_allclose(score(orders, np.array([0, 1, 3, 9])), [1, 1 / 4, 1 / 8, 0])


def test_end_to_end(model, tmp_path):
    root = layouts.copydays(tmp_path)
    settings = CopydaysSettings(
        str(root),
        whitening=str(root / "others"),
        distractors=str(root / "others"),
        size=16,
        batch=4,
    )
    result = evaluate(model, settings, mesh(1))
    assert result.metrics == {"map": 100.0, "database": 6.0, "whitening": 4.0}
    assert len(result.pictures) == 3
    # Rankings depend on near ties alone, and there are none: the same numbers.
    assert evaluate(model, settings, mesh(8)).metrics == result.metrics
    alone = dataclasses.replace(settings, whitening="none", distractors="none")
    assert evaluate(model, alone, mesh(1)).metrics == {
        "map": 100.0, "database": 2.0, "whitening": 0.0,
    }  # fmt: skip


def test_a_useless_feature_is_chance(tmp_path):
    """Equal features: rows in order. One copy of each original, found at each rank once."""
    root = layouts.copydays(tmp_path)
    (root / "strong/200002.png").unlink()
    settings = CopydaysSettings(str(root), whitening="none", distractors="none", size=16)
    metrics = evaluate(constant(4), settings, mesh(1)).metrics
    assert metrics["map"] == pytest.approx(100 * np.mean([1, 1 / 4]))  # trapezoids


def test_mistakes(model, tmp_path):
    settings = CopydaysSettings(str(layouts.copydays(tmp_path)), size=16)
    for changes, message in (
        ({}, "distractors is not given"),
        ({"distractors": "none"}, "whitening is not given"),
        ({"size": 18}, "size is 18"),
        ({"top": 0}, "top is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(model, dataclasses.replace(settings, **changes), mesh(1))
