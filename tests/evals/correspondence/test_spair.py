import json

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.spair import Pair
from dinov3_jax.evals.correspondence.spair import SPairSettings, errors, evaluate, locate
from tests.data.benchmarks import correspondence_layouts as layouts
from tests.evals.constructed import noise, pixels
from tests.features.models import images, mesh, vit

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
    # Equal images: each is found in its patch or the next, whose corner is 5 pixels away or less
    # on each axis: 7.1 of 32 pixels.
    wide = SPairSettings(str(tmp_path), size=32, batch=2, alpha=0.23, layer=0)
    assert evaluate(model, wide, mesh(1)).metrics["pck"] == 100.0


def write_pairs(root, sources, targets, points):
    """Pairs of one category; ``points`` [k, 4] of each are x, y in the source, x, y in the target.
    The long side of the box is 64 pixels."""
    for folder in ("JPEGImages/cat", "PairAnnotation/test"):
        (root / folder).mkdir(parents=True)
    for i, (source, target, known) in enumerate(zip(sources, targets, points)):
        for side, image in (("a", source), ("b", target)):
            Image.fromarray(image).save(root / f"JPEGImages/cat/{i}{side}.png")
        entry = {
            "category": "cat",
            "src_imname": f"{i}a.png",
            "trg_imname": f"{i}b.png",
            "src_kps": np.asarray(known)[:, :2].tolist(),
            "trg_kps": np.asarray(known)[:, 2:].tolist(),
            "trg_bndbox": [0, 0, 48, 64],
        }
        (root / f"PairAnnotation/test/{i}.json").write_text(json.dumps(entry))
    return str(root)


def test_a_part_of_the_source_in_a_taller_and_larger_target(tmp_path):
    """The right three quarters of a wide source, twice as large, at the foot of a tall target."""
    source = images(1, 24, 32)[0]
    target = np.full((64, 48, 3), 255, np.uint8)
    target[16:] = source[:, 8:].repeat(2, axis=0).repeat(2, axis=1)
    x, y = (np.array(p, float) * 32 / 7 for p in np.meshgrid([2, 3, 4], [0, 1, 2, 3]))
    x, y = x.ravel(), y.ravel()  # on the source's grid of 8 patches
    points = np.stack([x, y, 2 * (x - 8), 2 * y + 16], axis=1)
    data = write_pairs(tmp_path, [source], [target], [points])
    # Patches are 8 pixels of the target. Without half a patch, column 4 and row 3 are off by 4.6
    # and 3.4 pixels, the most there is; 6.4 count as found.
    settings = SPairSettings(data, size=32, alpha=0.1)
    assert evaluate(pixels(4), settings, mesh(1)).metrics["pck"] == 100.0


def test_noise_finds_by_chance(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 64, (20, 15, 4))
    data = write_pairs(tmp_path, images(20, 64, 64, seed=1), images(20, 64, 64, seed=2), points)
    corners = np.indices((16, 16)).reshape(2, -1).T * 4.0
    away = np.linalg.norm(points[..., None, 2:] - corners, axis=-1)  # [20, 15, 256]
    chance = 100 * (away < 0.3 * 64).mean()
    assert 15 < chance < 30
    got = evaluate(noise(4), SPairSettings(data, size=64, alpha=0.3), mesh(1)).metrics["pck"]
    assert got == pytest.approx(chance, abs=7)  # three deviations of 300 draws


def test_mistakes(model):
    for changes, message in (({"size": 30}, "size is 30"), ({"alpha": 0.0}, "alpha is 0.0")):
        with pytest.raises(ConfigError, match=message):
            evaluate(model, SPairSettings("", **changes), mesh(1))
