import dataclasses

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.navi import View, open_navi
from dinov3_jax.data.record import SourceError
from dinov3_jax.evals.correspondence.geometry import angle, move, unproject
from dinov3_jax.evals.correspondence.navi import (
    NaviSettings,
    cut,
    evaluate,
    match_points,
    partners,
    recall,
)
from tests.data.benchmarks import correspondence_layouts as layouts
from tests.evals.constructed import levels, noise
from tests.features.models import mesh, vit

RNG = np.random.default_rng(0)


def view(degrees=0.0, translation=(0.0, 0.0, 0.0)):
    """Turned about the vertical axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return View("scene", "0.png", rotation, np.array(translation), 40.0, (24, 32))


def test_unproject_puts_the_middle_on_the_axis():
    depth = np.full((4, 6), 2.0)
    points = unproject(depth, np.arange(4), np.arange(6), focal=10.0)
    np.testing.assert_allclose(points.mean(axis=(0, 1)), [0, 0, 2], atol=1e-6)  # float32
    np.testing.assert_allclose(points[1, 4], [2 * 1.5 / 10, -2 * 0.5 / 10, 2], rtol=1e-6)
    part = unproject(depth, np.array([1]), np.array([4]), focal=10.0)
    np.testing.assert_array_equal(part[0, 0], points[1, 4])


def test_move_there_and_back():
    points = RNG.normal(size=(10, 3))
    a, b = view(30.0, (0.1, 0.2, 0.3)), view(-50.0, (0.0, -1.0, 2.0))
    np.testing.assert_allclose(move(move(points, a, b), b, a), points, atol=1e-12)
    np.testing.assert_allclose(move(points, a, a), points, atol=1e-12)
    shifted = view(30.0, (0.4, 0.2, 0.3))
    np.testing.assert_allclose(move(points, a, shifted), points + np.array([0.3, 0, 0]), atol=1e-12)
    assert angle(a, b) == pytest.approx(80.0)


def test_partners_are_near_and_no_view_is_its_own():
    scenes = {"a": tuple(view(d) for d in (0, 10, 170)), "b": (view(0),)}
    found, alone = partners(scenes, every=1, limit=120.0, seed=0)
    assert [(angle(*pair) > 0) and angle(*pair) <= 120 for pair in found] == [True] * 2
    assert alone == 2  # 170 degrees from both others is too far; b has one view
    found, _ = partners(scenes, every=2, limit=180.0, seed=0)
    assert [pair[0] for pair in found] == [scenes["a"][0], scenes["a"][2]]
    with pytest.raises(SourceError, match="none of 1 views has another"):
        partners({"b": scenes["b"]}, every=1, limit=120.0, seed=0)


G = 8  # points a side


def scene(known=None):
    """Features of their own at every point of the grid, and a plane half a metre away."""
    depth = np.full((G, G), 0.5) if known is None else np.where(known, 0.5, 0.0)
    points = unproject(depth, np.arange(G), np.arange(G), focal=10.0)
    return RNG.normal(size=(G, G, 64)), points


def matched(tokens_a, tokens_b, moved, points_a, points_b, *, matches=1000, rank="cosine"):
    return match_points(
        tokens_a, tokens_b, moved.reshape(-1, 3), points_a, points_b,
        matches=matches, rank=rank, mesh=mesh(1),
    )  # fmt: skip


@pytest.mark.parametrize("rank", ["cosine", "ratio"])
def test_identity(rank):
    tokens, points = scene()
    found = matched(tokens, tokens, points, points, points, rank=rank)
    assert len(found.error) == G * G
    assert recall([found.error]) == dict.fromkeys(
        ("recall", "recall@1cm", "recall@2cm", "recall@5cm"), 100.0
    )


def test_a_known_translation_is_the_error():
    """Matches are right, but the pose is wrong by t: each lands |t| away."""
    tokens, points = scene()
    t = np.array([0.012, 0.016, 0.0])  # 2 cm
    found = matched(tokens, tokens, points + t, points, points)
    np.testing.assert_allclose(found.error, 0.02, rtol=1e-5)  # float32 points
    got = recall([found.error + 1e-6])
    assert got == pytest.approx(
        {"recall@1cm": 0, "recall@2cm": 0, "recall@5cm": 100, "recall": 100 / 3}
    )


def test_points_without_depth_take_no_part_and_the_surest_stay():
    known = RNG.random((G, G)) < 0.5
    tokens, points = scene(known)
    noise = RNG.normal(size=tokens.shape) * np.linspace(0, 2, G)[:, None, None]
    found = matched(tokens, tokens + noise, points, points, points, matches=10)
    assert len(found.a) == 10
    assert known.ravel()[found.a].all()
    assert known.ravel()[found.b].all()
    assert found.a.max() < G * G // 2  # the noise is small in the upper rows
    _, few = scene(np.arange(G * G).reshape(G, G) == 5)
    with pytest.raises(SourceError, match="1 and 1 points of the grid"):
        matched(tokens, tokens, few, few, few)


def test_the_square_is_around_the_object_and_within_the_photograph(tmp_path):
    (near, _) = open_navi(str(layouts.navi(tmp_path)), scenes="wild_set")["mug/wild_set"]
    square = cut(near, NaviSettings("", size=16, grid=16))
    np.testing.assert_array_equal(square.pixels, near.pixels()[4:20, 8:24])
    assert (square.points[..., 2] > 0).all()
    np.testing.assert_allclose(square.points[..., 2], 0.5, rtol=1e-3)  # of 16-bit disparity
    np.testing.assert_allclose(square.points.mean(axis=(0, 1))[:2], 0.0, atol=1e-6)


@pytest.fixture(scope="module")
def model():
    return vit()


def test_end_to_end(model, tmp_path):
    settings = NaviSettings(
        str(layouts.navi(tmp_path)), size=16, grid=16, every=1, matches=50, batch=2
    )
    result = evaluate(model, settings, mesh(1))
    # Two equal photographs from one place: every point is its own best.
    assert result.metrics["recall"] == result.metrics["recall_raw"] == 100.0
    assert result.metrics["pairs"] == 2.0
    assert len(result.pictures) == 2
    # Recall depends on near ties alone, and there are none: the same numbers.
    assert evaluate(model, settings, mesh(8)).metrics == result.metrics


def two_poses(root):
    """The second camera is turned by a right angle about its axis and stands 5 cm to the side; the
    colours of the object say where on it a point is."""
    side = np.arange(0, 256, 16, np.uint8)
    texture = np.stack([*np.meshgrid(side, side), np.full((16, 16), 128, np.uint8)], axis=-1)
    half = np.sqrt(0.5)
    layouts.navi(root, translations=((0, 0, 500), (50, 0, 500)), q=[half, 0, 0, half])
    # 5 cm half a metre away are 4 pixels; x goes to y, and y to -x: clockwise.
    for i, (pixels, left) in enumerate(((texture, 8), (np.rot90(texture, -1), 12))):
        image, disparity = np.zeros((24, 32, 3), np.uint8), np.zeros((24, 32), np.uint16)
        image[4:20, left : left + 16] = pixels
        disparity[4:20, left : left + 16] = round(655350 / 500)
        Image.fromarray(image).save(root / f"mug/wild_set/images/{i:03d}.png")
        Image.fromarray(disparity).save(root / f"mug/wild_set/depth/{i:03d}.png")
    return NaviSettings(str(root), size=16, grid=16, every=1)


def test_a_perfect_feature_between_two_poses(tmp_path):
    """Moved by the pose of the other view's, points would land 10 cm or more away."""
    metrics = evaluate(levels(1), two_poses(tmp_path), mesh(1)).metrics
    assert metrics["recall"] == metrics["recall_raw"] == 100.0
    assert metrics["pairs"] == 2.0


def test_noise_lands_by_chance(tmp_path):
    settings = two_poses(tmp_path)
    points = cut(open_navi(settings.data, scenes="wild_set")["mug/wild_set"][0], settings).points
    flat = points.reshape(-1, 3)
    away = np.linalg.norm(flat[:, None] - flat, axis=-1)  # of a square of 20 cm
    chance = 100 * (away < 0.05).mean()
    assert 10 < chance < 20
    got = evaluate(noise(1), settings, mesh(1)).metrics["recall@5cm"]
    # Three deviations of 2 x 256 draws are 4.6; partners that are many points' best add to it.
    assert got == pytest.approx(chance, abs=6)


def test_mistakes(model, tmp_path):
    settings = NaviSettings(str(layouts.navi(tmp_path)), size=16)
    for changes, message in (
        ({"size": 18}, "size is 18"),
        ({"rank": "best"}, "rank is 'best'"),
        ({"every": 0}, "at least 1"),
        ({"layer": 7}, "layers"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(model, dataclasses.replace(settings, **changes), mesh(1))
    (tmp_path / "mug/wild_set/annotations.json").write_text("[]")
    with pytest.raises(SourceError, match="none of 0 views"):
        evaluate(model, settings, mesh(1))
