import dataclasses
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.evals.retrieval.met import Found, MetSettings, evaluate, predict, score
from tests.data.benchmarks import retrieval_layouts as layouts
from tests.evals.constructed import levels
from tests.features.models import mesh, vit


def test_confidence_by_hand():
    """Classes 5 (twice) and 2 among three neighbours of four classes."""
    labels, cosine = np.array([[5, 5, 2]]), np.array([[0.9, 0.8, 0.5]])
    for k, others in ((3, np.exp(2 * 0.5) + 2), (2, 3), (1, 3)):
        predicted, confidence = predict(Found(labels, cosine), 4, k, 2.0)
        np.testing.assert_array_equal(predicted, [5])
        assert confidence[0] == pytest.approx(np.exp(1.8) / (np.exp(1.8) + others))


def test_large_inverse_temperatures_stay_finite():
    labels, cosine = np.array([[0, 1], [0, 1], [0, 0]]), np.array([[1, 1], [-0.5, -1], [0.5, 0.5]])
    _, confidence = predict(Found(labels, cosine), 2, 2, 500.0)
    # Two equal classes; both below 0, the first alone counts; one class of two, the other absent.
    np.testing.assert_allclose(confidence, [0.5, 1.0, 1.0], atol=1e-12)


def test_the_grid_is_chosen_on_val():
    """A distractor is as near as a right answer; only its runner-up of another class tells."""
    val = np.array([0, -1])
    found = Found(np.array([[0, 0], [0, 1]]), np.array([[0.8, 0.8], [0.9, 0.9]]))
    metrics, chosen = score(found, val, found, val, classes=2, ks=(1, 2), ts=(1.0, 10.0))
    # With one neighbour the distractor, nearer, is surer: GAP 1/2. With two it is not: 1.
    assert chosen == (2, 1.0)
    assert metrics == {
        "gap": 100.0, "gap_minus": 100.0, "acc": 100.0, "val_gap": 100.0, "k": 2.0, "t": 1.0,
    }  # fmt: skip
    metrics, _ = score(found, val, found, val, classes=2, ks=(1,), ts=(1.0,))
    assert metrics["gap"] == 50.0
    assert metrics["gap_minus"] == 100.0


@pytest.fixture(scope="module")
def model():
    return vit()


def test_end_to_end(model, tmp_path):
    settings = MetSettings(str(layouts.met(tmp_path)), longest=16, dims=2, batch=4)
    result = evaluate(model, settings, mesh(1))
    assert result.metrics["acc"] == 100.0  # the queries are database images, to the pixel
    assert result.metrics["gap_minus"] == 100.0
    assert result.metrics["dims"] == 2.0
    assert result.metrics["k"] in (1, 2, 3)  # of the grid, what a database of 4 has
    assert len(result.pictures) == 2
    # A GAP is made of ranks: equal unless confidences nearly tie, which they do not here.
    assert evaluate(model, settings, mesh(8)).metrics == pytest.approx(result.metrics)


@pytest.mark.parametrize(("channel", "accuracy"), [(0, 100), (2, 25)])
def test_a_perfect_feature_scores_100_and_a_useless_one_chance(tmp_path, channel, accuracy):
    """Red says which of four exhibits it is; blue says nothing: each of its levels is there with
    each exhibit once, so that of four queries that look alike one answer is right."""
    for name, key in (("MET_database", "id"), ("valset", "MET_id"), ("testset", "MET_id")):
        entries = []
        for exhibit, other in itertools.product(range(4), range(4)):
            file = tmp_path / f"images/{name}/{exhibit}{other}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            colour = (64 * exhibit, 0, 64 * other)
            Image.new("RGB", (8, 8), colour).save(file)
            entries.append({"path": f"{name}/{file.name}", key: exhibit})
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    settings = MetSettings(str(tmp_path), longest=8, dims=3)
    metrics = evaluate(levels(4, channels=(channel,)), settings, mesh(1)).metrics
    assert metrics["acc"] == accuracy
    assert (metrics["gap"] == 100) == (accuracy == 100)


def test_mistakes(model, tmp_path):
    settings = MetSettings(str(layouts.met(tmp_path)), longest=16)
    for changes in ({"k": ()}, {"k": (0,)}, {"t": ()}, {"dims": 0}):
        with pytest.raises(ConfigError, match="wanted some"):
            evaluate(model, dataclasses.replace(settings, **changes), mesh(1))
