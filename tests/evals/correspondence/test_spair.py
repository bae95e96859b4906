import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.spair import Pair
from dinov3_jax.evals.correspondence.spair import SPairSettings, errors, evaluate, locate
from tests.data.benchmarks import correspondence_layouts as layouts
from tests.features.models import mesh, vit

N, SIDE = 16, 160  # patches and pixels a side


def centres(cells):
    return (np.array(cells, float) + 0.5) * SIDE / N


def pair(points_a, points_b, box=(0, 0, 100, 60)):
    return Pair("cat", "a", "b", points_a, points_b, np.array(box, float))


def one_hot():
    return np.eye(N * N).reshape(N, N, N * N)


def test_one_hot_features_find_the_keypoints_of_their_cells():
    cells = [[0, 0], [15, 3], [7, 8], [15, 15], [8, 7]]
    same = pair(centres(cells), centres(cells))
    found = locate(one_hot(), one_hot(), same, SIDE, SIDE)
    np.testing.assert_array_equal(found, np.array(cells) * SIDE / N)  # corners, not centres
    assert (errors(found, same) < 0.1).all()
    away = pair(centres(cells), centres(cells) + np.array([16.0, 0.0]))  # by .16 of the box
    assert (errors(found, away) >= 0.1).all()


def test_the_error_is_of_the_long_side_of_the_box():
    there = pair(np.zeros((1, 2)), np.array([[30.0, 40.0]]))
    assert errors(np.zeros((1, 2)), there) == pytest.approx(0.5)


def test_a_target_that_is_a_shifted_source():
    tokens = np.random.default_rng(0).normal(size=(N, N, 32))
    cells = np.array([[3, 4], [9, 2]])
    moved = pair(centres(cells), centres(cells + np.array([2, 1])))
    found = locate(tokens, np.roll(tokens, (1, 2), axis=(0, 1)), moved, SIDE, SIDE)
    assert (errors(found, moved) < 0.1).all()


@pytest.fixture(scope="module")
def model():
    return vit()


def test_end_to_end(model, tmp_path):
    settings = SPairSettings(str(layouts.spair(tmp_path)), size=32, batch=2)
    result = evaluate(model, settings, mesh(1))
    assert sorted(result.metrics) == ["pck", "pck/cat", "pck/dog"]
    mean = (result.metrics["pck/cat"] + result.metrics["pck/dog"]) / 2
    assert result.metrics["pck"] == pytest.approx(mean)
    assert len(result.pictures) == 3
    assert max(result.pictures[0].pixels.shape) <= 512
    # Which patch is best depends on near ties alone, and there are none: the same numbers.
    assert evaluate(model, settings, mesh(8)).metrics == result.metrics
    wide = SPairSettings(str(tmp_path), size=32, batch=2, alpha=2.0, layer=0)
    assert evaluate(model, wide, mesh(1)).metrics["pck"] == 100.0


def test_mistakes(model):
    for changes, message in (({"size": 30}, "size is 30"), ({"alpha": 0.0}, "alpha is 0.0")):
        with pytest.raises(ConfigError, match=message):
            evaluate(model, SPairSettings("", **changes), mesh(1))
