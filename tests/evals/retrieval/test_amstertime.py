import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.record import SourceError
from dinov3_jax.evals.retrieval.amstertime import AmsterTimeSettings, evaluate, score
from tests.data.benchmarks import retrieval_layouts as layouts
from tests.evals.constructed import constant
from tests.features.models import mesh, vit


@pytest.fixture(scope="module")
def model():
    return vit()


def test_precision_is_one_over_the_place_in_both_directions():
    there = [np.array([0, 1]), np.array([0, 1])]  # places 1 and 2
    back = [np.array([1, 0]), np.array([0, 1])]  # places 2 and 2
    metrics, precision = score(there, back)
    assert metrics == {"map": 62.5, "map_old_to_new": 75.0, "map_new_to_old": 50.0}
    np.testing.assert_array_equal(precision, [[1, 0.5], [0.5, 0.5]])


def test_equal_images_are_found_by_any_model(model, tmp_path):
    settings = AmsterTimeSettings(str(layouts.amstertime(tmp_path)), resize=20, crop=16, batch=4)
    result = evaluate(model, settings, mesh(1))
    assert set(result.metrics.values()) == {100.0}
    assert len(result.pictures) == 3
    # Rankings depend on near ties alone, and there are none: the same numbers.
    assert evaluate(model, settings, mesh(8)).metrics == result.metrics


def test_a_useless_feature_is_chance(tmp_path):
    """Equal features: rows in order, so that each of three places is found at each rank once."""
    settings = AmsterTimeSettings(str(layouts.amstertime(tmp_path)), resize=20, crop=16)
    metrics = evaluate(constant(4), settings, mesh(1)).metrics
    assert list(metrics.values()) == pytest.approx([100 * np.mean([1, 1 / 2, 1 / 3])] * 3)


def test_one_place_is_enough(model, tmp_path):
    root = layouts.amstertime(tmp_path)
    for i in (1, 2):
        (root / f"old/{i:04d}.png").unlink()
        (root / f"new/{i:04d}.png").unlink()
    settings = AmsterTimeSettings(str(root), resize=20, crop=16, batch=4)
    assert evaluate(model, settings, mesh(1)).metrics["map"] == 100.0
    (root / "old/0000.png").unlink()
    with pytest.raises(SourceError, match="no images in"):
        evaluate(model, settings, mesh(1))


def test_a_crop_off_the_grid(model):
    with pytest.raises(ConfigError, match="crop is 18"):
        evaluate(model, AmsterTimeSettings("", crop=18), mesh(1))
