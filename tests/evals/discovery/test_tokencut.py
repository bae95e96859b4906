import dataclasses

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.boxes import COLUMNS
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.discovery import tokencut
from dinov3_jax.evals.discovery.tokencut import TokenCutSettings, evaluate, ious
from tests.data.benchmarks.boxed import BOXES, write_boxes
from tests.evals.constructed import constant, levels
from tests.features.models import mesh, vit

TAUS = (0.3, 0.6, 0.9)


@pytest.fixture(scope="module")
def model():
    return vit(patch_size=8)


@pytest.fixture
def settings(tmp_path):
    return TokenCutSettings(str(write_boxes(tmp_path, "own")), taus=TAUS)


def test_ious():
    box = np.array([0, 0, 10, 10])
    others = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [5, 5, 15, 15], [10, 0, 20, 10]])
    np.testing.assert_array_equal(ious(box, others), [1, 0.5, 25 / 175, 0])


def test_an_iou_of_exactly_a_half_counts(settings, monkeypatch):
    """Half of each true box is found with the first tau, less with the others."""

    def half(*_):
        for i, box in enumerate(np.array(BOXES, np.float64)):
            middle = (box[0] + box[2]) / 2
            yield i, np.array([[*box[:2], middle - tau_index, box[3]] for tau_index in range(3)])

    monkeypatch.setattr(tokencut, "_boxes", half)
    metrics = evaluate(None, settings, None).metrics
    assert metrics["corloc"] == metrics["corloc_tau_0.30"] == 100
    assert metrics["tau"] == 0.3
    assert metrics["corloc_tau_0.60"] == metrics["corloc_tau_0.90"] == 0


def test_rectangles_are_found(model, settings):
    result = evaluate(model, settings, mesh(1))
    assert result.metrics["corloc"] == 100
    assert result.metrics["images"] == 3
    assert len(result.pictures) == 3
    assert result.pictures[0].pixels.shape == (32, 48, 3)
    assert all("IoU 1.00" in picture.caption for picture in result.pictures)


@pytest.mark.parametrize(("make", "least", "most"), [(levels, 100, 100), (constant, 0, 200 / 9)])
def test_perfect_features_find_all_and_equal_ones_chance(tmp_path, make, least, most):
    """A red square in each ninth of the image: one box for all can be half right of two at most."""
    (tmp_path / "images").mkdir()
    lines = [",".join(COLUMNS)]
    for i in range(9):
        x, y = 16 * (i % 3), 16 * (i // 3)
        pixels = np.full((48, 48, 3), 128, np.uint8)
        pixels[y : y + 16, x : x + 16] = (240, 16, 16)
        Image.fromarray(pixels).save(tmp_path / f"images/{i}.png")
        lines.append(f"{i}.png,{x},{y},{x + 16},{y + 16}")
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
    found = evaluate(make(8), TokenCutSettings(str(tmp_path), taus=TAUS), mesh(1)).metrics
    assert least <= found["corloc"] <= most
    assert found["images"] == 9


def test_the_same_on_8_devices(model, settings):
    alone, spread = (evaluate(model, settings, mesh(n)).metrics for n in (1, 8))
    assert alone == spread  # boxes are decisions: float32 noise would have to sit on a tie


def boxes(model, settings):
    data = tokencut.open_boxes(settings.data, "any")
    return dict(tokencut._boxes(model, data, [0, 1, 2], settings, mesh(1)))


def test_sizes_off_the_grid_are_padded_and_boxes_stay_inside(model, settings, tmp_path):
    """Two sizes in one data set."""
    with Image.open(tmp_path / "images/0.png") as image:
        image.crop((0, 0, 45, 27)).save(tmp_path / "images/0.png")
    found = boxes(model, settings)
    assert sorted(found) == [0, 1, 2]
    assert found[0].shape == (3, 4)
    assert (found[0] <= [45, 27, 45, 27]).all()
    for i in (1, 2):
        assert (found[i] == BOXES[i]).all(axis=1).any()  # with one of the taus


def test_large_images_are_scaled_down_and_boxes_back(model, settings):
    """At half their size a patch is 16 pixels of the image."""
    for found in boxes(model, dataclasses.replace(settings, long_side=24)).values():
        assert (found % 16 == 0).all()
        assert (found <= [48, 32, 48, 32]).all()
        assert (found[:, 2:] > found[:, :2]).all()


def test_mistakes(model, settings, tmp_path):
    with pytest.raises(ConfigError, match="taus are empty"):
        evaluate(model, dataclasses.replace(settings, taus=()), mesh(1))
    with pytest.raises(ConfigError, match="long_side is 0 pixels"):
        evaluate(model, dataclasses.replace(settings, long_side=0), mesh(1))
    with pytest.raises(SourceError, match=r"0\.png has 1 patches, of 8 .*; wanted 2 to 20000"):
        evaluate(model, dataclasses.replace(settings, long_side=8), mesh(1))


def test_no_boxes_at_all(model, tmp_path):
    write_boxes(tmp_path, "voc")
    for i in range(3):
        (tmp_path / f"Annotations/{i}.xml").write_text("<annotation></annotation>")
    with pytest.raises(SourceError, match=r"no image of .* has a box"):
        evaluate(model, TokenCutSettings(str(tmp_path), taus=TAUS), mesh(1))
