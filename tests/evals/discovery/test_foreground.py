import dataclasses

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.discovery.foreground import (
    ForegroundSettings,
    evaluate,
    left_out,
    patch_shares,
    smooth,
)
from tests.data.benchmarks.masked import write_masked
from tests.features.models import mesh, vit

CS = (1e-7, 1.0)


@pytest.fixture(scope="module")
def model():
    return vit(patch_size=8)


@pytest.fixture
def settings(tmp_path):
    return ForegroundSettings(str(write_masked(tmp_path, "own")), height=32, Cs=CS)


def constructed(images=4, N=60, seed=0):
    """Shares [N] of each image, a third of them foreground, and a tenth mixed."""
    rng = np.random.default_rng(seed)
    return [rng.choice([0.0, 1.0, 0.5], N, p=[0.6, 0.3, 0.1]) for _ in range(images)]


def test_a_perfect_feature_scores_100_and_noise_is_chance():
    shares = constructed(N=300)
    rng = np.random.default_rng(1)
    perfect = [np.stack([share, 1 - share], axis=1) for share in shares]
    scores, chances = left_out(perfect, shares, (1.0,), 4)
    np.testing.assert_array_equal(scores, np.ones((1, 4)))
    assert chances[0][2].shape == (300,)
    noise = [rng.standard_normal((300, 4)) for _ in shares]
    scores, _ = left_out(noise, shares, (1.0,), 4)
    # A third of the patches that count are foreground: the precision of any random order.
    assert abs(scores.mean() - 1 / 3) < 0.06


def test_an_image_does_not_teach_its_own_judge():
    """Of the last image the feature is turned round; it is judged by the others."""
    shares = constructed()
    tokens = [np.stack([share, 1 - share], axis=1) for share in shares]
    tokens[-1] = 1 - tokens[-1]
    scores, _ = left_out(tokens, shares, (1.0,), 4)
    pure = shares[-1][shares[-1] != 0.5]
    # All of the foreground comes last: the precision there is its share.
    assert scores[0, -1] == pytest.approx(pure.mean(), abs=1e-12)
    assert scores[0, :-1].min() > 0.9


def test_mixed_and_unknown_patches_do_not_count():
    shares = constructed()
    tokens = [np.stack([share, 1 - share], axis=1) for share in shares]
    for share, token in zip(shares, tokens):
        token[share == 0.5] = [0, 1]  # would be taken for background
        share[:5] = np.nan
    np.testing.assert_array_equal(left_out(tokens, shares, (1.0,), 4)[0], np.ones((1, 4)))


def test_images_of_one_class_and_folds():
    shares = [*constructed(), np.zeros(60)]
    tokens = [np.stack([share, 1 - share], axis=1) for share in shares]
    scores, _ = left_out(tokens, shares, (1.0,), 2)
    assert np.isnan(scores[0]).tolist() == [False] * 4 + [True]


def test_data_that_cannot_teach():
    shares = constructed()
    tokens = [np.stack([share, 1 - share], axis=1) for share in shares]
    for n, folds in ((1, 1), (4, 5), (4, 1)):
        with pytest.raises(SourceError, match=f"{n} images cannot be parted into {folds} folds"):
            left_out(tokens[:n], shares[:n], (1.0,), folds)
    with pytest.raises(SourceError, match="no image has patches of pure foreground and of pure"):
        left_out(tokens, [np.zeros(60)] * 4, (1.0,), 4)
    with pytest.raises(SourceError, match="without one fold, the patches left are of one class"):
        left_out(tokens[:2], [shares[0], np.zeros(60)], (1.0,), 2)


def test_shares_are_means_over_patches():
    alpha = np.zeros((4, 6), np.float32)
    alpha[:, :3], alpha[3, 5] = 1, np.nan
    got = patch_shares(alpha, 2, 3)
    np.testing.assert_array_equal(got, [[1, 0.5, 0], [1, 0.5, np.nan]])


def test_the_median_knows_zeros_beyond_the_border():
    assert smooth(np.ones((3, 3))).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]


def test_red_rectangles_are_told_from_noise_on_1_and_8_devices(model, settings):
    results = [evaluate(model, settings, mesh(n)) for n in (1, 8)]
    for name, value in results[0].metrics.items():
        # A ranking of 24 patches: float32 noise would have to swap two.
        assert results[1].metrics[name] == pytest.approx(value, abs=1e-9), name
    assert results[0].metrics["ap"] == 100
    assert results[0].metrics["images"] == 3
    assert {"ap_C_1e-07", "ap_C_1"} <= results[0].metrics.keys()
    assert len(results[0].pictures) == 3
    assert results[0].pictures[0].pixels.shape == (32, 48, 3)


def test_mistakes(model, settings, tmp_path):
    with pytest.raises(ConfigError, match=r"Cs are \(\), wanted at least one"):
        evaluate(model, dataclasses.replace(settings, Cs=()), mesh(1))
    with pytest.raises(ConfigError, match="height is 7 pixels, below a patch of 8"):
        evaluate(model, dataclasses.replace(settings, height=7), mesh(1))
    with pytest.raises(SourceError, match="3 images cannot be parted into 0 folds"):
        evaluate(model, dataclasses.replace(settings, folds=0), mesh(1))
    Image.new("L", (40, 32)).save(tmp_path / "masks/0.png")
    with pytest.raises(SourceError, match="has 32 x 40 pixels, its image 32 x 48"):
        evaluate(model, settings, mesh(1))
