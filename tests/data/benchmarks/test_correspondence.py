"""Readers of the correspondence benchmarks, on tiny copies of their layouts."""

import json

import numpy as np
import pytest

from dinov3_jax.data.benchmarks.matches import open_matches
from dinov3_jax.data.benchmarks.navi import open_navi
from dinov3_jax.data.benchmarks.spair import open_spair
from dinov3_jax.data.record import SourceError
from tests.data.benchmarks import correspondence_layouts as layouts


def test_navi(tmp_path):
    turn = [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)]  # 90 degrees about the axis of the camera
    root = layouts.navi(tmp_path, translations=((0, 0, 500), (10, 20, 700)), q=turn)
    scenes = open_navi(str(root), scenes="wild_set")
    assert list(scenes) == ["mug/wild_set"]
    first, second = scenes["mug/wild_set"]
    assert first.pixels().shape == (24, 32, 3)
    depth = first.depth()
    assert (depth > 0).sum() == 16 * 16
    np.testing.assert_allclose(depth[depth > 0], 0.5, rtol=1e-3)  # of 16-bit disparity
    np.testing.assert_allclose(first.rotation, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(second.translation, [0.01, 0.02, 0.7])
    # x of the object goes to y of the camera.
    np.testing.assert_allclose(second.rotation @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(second.rotation @ second.rotation.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera": {"q": [0, 0, 0, 0], "t": [0, 0, 1], "focal_length": 1}}, "wanted a quaternion"),
        ({"camera": {"t": [0, 0, 1]}}, "KeyError 'q'"),
    ],
)
def test_navi_annotations_that_do_not_fit(tmp_path, change, message):
    file = layouts.navi(tmp_path) / "mug/wild_set/annotations.json"
    file.write_text(json.dumps([entry | change for entry in json.loads(file.read_text())]))
    with pytest.raises(SourceError, match=message):
        open_navi(str(tmp_path), scenes="wild_set")


def test_navi_images_of_another_size(tmp_path):
    file = layouts.navi(tmp_path) / "mug/wild_set/annotations.json"
    file.write_text(json.dumps([e | {"image_size": [2, 3]} for e in json.loads(file.read_text())]))
    view = open_navi(str(tmp_path), scenes="wild_set")["mug/wild_set"][0]
    with pytest.raises(SourceError, match=r"000.png is \[24, 32\], wanted \[2, 3\]"):
        view.depth()
    with pytest.raises(SourceError, match=r"000.png is \[24, 32\], wanted \[2, 3\]"):
        view.pixels()
    (tmp_path / "mug/wild_set/depth/000.png").unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        view.depth()


def test_spair(tmp_path):
    data = open_spair(str(layouts.spair(tmp_path)), split="test")
    assert [(pair.category, pair.a, pair.b) for pair in data.pairs] == [
        ("cat", "cat/0a.png", "cat/0b.png"),
        ("cat", "cat/1a.png", "cat/1b.png"),
        ("dog", "dog/0a.png", "dog/0b.png"),
    ]
    np.testing.assert_array_equal(data.pairs[0].points_a, [[10, 10], [25, 17]])
    np.testing.assert_array_equal(data.pairs[0].box_b, [0, 0, 32, 24])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trg_kps": [[1, 2]]}, "has 2 keypoints in the source, 1 in the target"),
        ({"trg_kps": [], "src_kps": []}, "has 0 keypoints"),
        ({"trg_bndbox": [5, 5, 5, 9]}, "wanted x0 < x1"),
        ({"trg_bndbox": None}, "get it again"),
    ],
)
def test_spair_annotations_that_do_not_fit(tmp_path, change, message):
    with pytest.raises(SourceError, match=message):
        open_spair(str(layouts.spair(tmp_path, **change)), split="test")


def test_matches(tmp_path):
    (pair,) = open_matches(str(layouts.matches(tmp_path)))
    assert (pair.a, pair.b) == (tmp_path / "a.png", tmp_path / "b.png")
    np.testing.assert_array_equal(pair.points_a, [[4, 4], [20, 12]])
    np.testing.assert_array_equal(pair.points_b, [[4, 4], [20, 12]])


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ((), "has no points"),
        ((("x", 1, 1, 1),), "line 2: could not convert"),
        (((1, 1, 1),), "line 2: float"),
        ((("nan", 1, 1, 1),), "not all finite"),
    ],
)
def test_point_lists_that_do_not_fit(tmp_path, points, message):
    with pytest.raises(SourceError, match=message):
        open_matches(str(layouts.matches(tmp_path, points=points)))


@pytest.mark.parametrize(
    ("open_it", "layout"),
    [
        (lambda path: open_navi(path, scenes="wild_set"), "OBJECT/wild_set/annotations.json"),
        (lambda path: open_spair(path, split="test"), "PairAnnotation"),
        (open_matches, "image_a,image_b,xa,ya,xb,yb"),
    ],
)
def test_what_is_missing_tells_the_layout(tmp_path, open_it, layout):
    with pytest.raises(SourceError, match=layout):
        open_it(str(tmp_path / "nowhere"))
    (tmp_path / "empty.csv").write_text("a,b\n")
    with pytest.raises(SourceError, match="has the columns"):
        open_matches(str(tmp_path / "empty.csv"))
