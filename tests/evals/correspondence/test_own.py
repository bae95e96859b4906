import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.record import SourceError
from dinov3_jax.evals.correspondence.own import MatchesSettings, evaluate, locate, score
from tests.data.benchmarks import correspondence_layouts as layouts
from tests.data.benchmarks.retrieval_layouts import write
from tests.evals.constructed import noise
from tests.features.models import mesh, vit


def test_one_hot_features_find_the_centre_of_the_patch():
    tokens = np.eye(12).reshape(3, 4, 12)
    points = np.array([[8.0, 8.0], [56.0, 40.0], [25.0, 9.0]])  # of 64 x 48 pixels, 16 a patch
    found = locate(tokens, tokens, points, (48, 64), (48, 64))
    np.testing.assert_array_equal(found, [[8, 8], [56, 40], [24, 8]])
    # The same patches over an image twice as large.
    np.testing.assert_array_equal(locate(tokens, tokens, points, (48, 64), (96, 128)), 2 * found)


def test_scores_by_hand():
    errors = [np.array([1.0, 6.0]), np.array([12.0, 40.0])]
    got = score(errors, [100, 200], alpha=0.1, pixels=(12.0,))
    assert got == {
        "pck": 75.0, "pck@12px": 75.0, "error": 9.0, "points": 4.0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return vit()


def test_end_to_end(model, tmp_path):
    # Centres of patches of 4 pixels: in two equal images each is its own best.
    points = [(x, y, x, y) for x, y in ((2, 2), (18, 10), (30, 14))]
    settings = MatchesSettings(str(layouts.matches(tmp_path, points=points)), pixels=(0.5,))
    result = evaluate(model, settings, mesh(1))
    assert result.metrics["pck@0.5px"] == result.metrics["pck"] == 100.0
    assert result.metrics["error"] == 0.0
    assert len(result.pictures) == 1
    # Which patch is best depends on near ties alone, and there are none: the same numbers.
    assert evaluate(model, settings, mesh(8)).metrics == result.metrics
    away = [(2, 2, 30, 14)]
    wrong = MatchesSettings(str(layouts.matches(tmp_path, points=away)), layer=0)
    assert evaluate(model, wrong, mesh(1)).metrics["pck"] == 0.0


def test_noise_finds_by_chance(tmp_path):
    rng, lines, known = np.random.default_rng(0), ["image_a,image_b,xa,ya,xb,yb"], []
    for i in range(10):
        for side, seed in (("a", i), ("b", 10 + i)):
            write(tmp_path / f"{i}{side}.png", seed, height=32, width=64)
        points = rng.uniform(0, 1, (20, 4)) * [64, 32, 64, 32]
        lines += [f"{i}a.png,{i}b.png,{','.join(map(str, row))}" for row in points]
        known.append(points[:, 2:])
    (tmp_path / "points.csv").write_text("\n".join(lines) + "\n")
    places = np.indices((16, 8)).reshape(2, -1).T * 4.0 + 2  # x, y of the centres of patches
    away = np.linalg.norm(np.concatenate(known)[:, None] - places, axis=-1)
    chance = 100 * (away <= 0.2 * 64).mean()
    assert 15 < chance < 30
    settings = MatchesSettings(str(tmp_path / "points.csv"), longest=64, alpha=0.2)
    metrics = evaluate(noise(4), settings, mesh(1)).metrics
    assert metrics["pck"] == pytest.approx(chance, abs=9)  # three deviations of 200 draws
    assert metrics["points"] == 200


def test_mistakes(model, tmp_path):
    for changes in ({"alpha": 0.0}, {"pixels": (3.0, -1.0)}):
        with pytest.raises(ConfigError, match="wanted all above 0"):
            evaluate(model, MatchesSettings("", **changes), mesh(1))
    far = layouts.matches(tmp_path, points=[(4, 4, 33, 4)])
    with pytest.raises(SourceError, match=r"\[33.0, 4.0\] .* lies outside .*b.png, which is 32"):
        evaluate(model, MatchesSettings(str(far)), mesh(1))
