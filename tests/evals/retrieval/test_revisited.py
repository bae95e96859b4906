import dataclasses

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.images import Images
from dinov3_jax.data.benchmarks.revisited import Revisited
from dinov3_jax.data.record import SourceError
from dinov3_jax.evals.retrieval.revisited import OxfordSettings, evaluate, score
from tests.data.benchmarks import retrieval_layouts as layouts
from tests.evals.constructed import constant
from tests.features.models import mesh, vit


@pytest.fixture(scope="module")
def model():
    return vit()


def rows(*numbers):
    return np.array(numbers, int)


def benchmark(**changes):
    """One query of four images: 0 easy, 1 hard, 2 junk, 3 another."""
    images = Images("", ("0", "1", "2", "3"))
    data = Revisited(images, np.zeros((1, 4)), images, (rows(0),), (rows(1),), (rows(2),))
    return dataclasses.replace(data, **changes)


@pytest.mark.parametrize(
    ("order", "medium", "hard"),
    [
        ((0, 1, 2, 3), 1.0, 1.0),
        ((2, 0, 1, 3), 1.0, 1.0),  # junk in front changes nothing
        ((0, 2, 3, 1), 0.7916667, 0.25),  # at Hard, easy 0 and junk 2 go: 1 is at rank 1
        ((3, 0, 1, 2), (0.25 + (1 / 2 + 2 / 3) / 2) / 2, 0.25),
    ],
)
def test_levels(order, medium, hard):
    metrics, _ = score(benchmark(), [np.array(order)])
    assert metrics["map_medium"] == pytest.approx(100 * medium, abs=1e-5)  # the digits given
    assert metrics["map_hard"] == pytest.approx(100 * hard)


def test_a_level_without_positives_is_left_out():
    metrics, _ = score(benchmark(hard=(rows(),)), [np.array([0, 1, 2, 3])])
    assert metrics == {"map_medium": 100.0}
    with pytest.raises(SourceError, match="no query has an easy or hard image"):
        score(benchmark(hard=(rows(),), easy=(rows(),)), [np.array([0, 1, 2, 3])])


def test_equal_images_are_found_by_any_model(model, tmp_path):
    settings = OxfordSettings(str(layouts.revisited(tmp_path)), size=16, batch=4)
    result = evaluate(model, settings, mesh(1))
    assert result.metrics == {"map_medium": 100.0, "map_hard": 100.0}
    assert len(result.pictures) == 2
    # Rankings depend on near ties alone, and there are none: the same numbers.
    assert evaluate(model, settings, mesh(8)).metrics == result.metrics


def test_a_useless_feature_is_chance(tmp_path):
    """Equal features: rows in order. One query of each row, found at each place once."""
    whole = [0.0, 0.0, 28.0, 20.0]
    truth = [{"bbx": whole, "easy": [], "hard": [row], "junk": []} for row in range(4)]
    root = layouts.revisited(tmp_path, gnd=truth, qimlist=["q0", "q1"] * 2)
    metrics = evaluate(constant(4), OxfordSettings(str(root), size=16), mesh(1)).metrics
    chance = 100 * np.mean([1, 1 / 4, 1 / 6, 1 / 8])  # trapezoids
    assert metrics == pytest.approx({"map_medium": chance, "map_hard": chance})


def test_queries_are_cut_to_their_boxes(model, tmp_path):
    """The right half of d1 as a query of its own finds nothing else than the box of d1 does."""
    truth = [{"bbx": [14.0, 0.0, 28.0, 20.0], "easy": [0], "hard": [], "junk": []}]
    root = layouts.revisited(tmp_path, gnd=truth, qimlist=["q0"])
    shapes = []
    for crop in (True, False):
        settings = OxfordSettings(str(root), size=16, batch=4, crop_queries=crop)
        picture = evaluate(model, settings, mesh(1)).pictures[0].pixels[4:-4, 4:76]
        drawn = (picture != 255).any(axis=-1)
        shapes.append((drawn.any(axis=1).sum(), drawn.any(axis=0).sum()))
    assert shapes[0][0] > shapes[0][1]  # 14 wide, 20 high
    assert shapes[1][0] < shapes[1][1]


def test_mistakes(model, tmp_path):
    truth = [{"bbx": [40, 0, 50, 20], "easy": [0], "hard": [], "junk": []}]
    root = str(layouts.revisited(tmp_path, gnd=truth, qimlist=["q0"]))
    with pytest.raises(SourceError, match=r"the box \[40, 0, 50, 20\] lies outside q0.jpg"):
        evaluate(model, OxfordSettings(root, size=16), mesh(1))
    with pytest.raises(ConfigError, match="size is 18"):
        evaluate(model, OxfordSettings(root, size=18), mesh(1))
