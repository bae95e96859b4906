import numpy as np
import pytest

from dinov3_jax.data.benchmarks.depth_augment import recolour, training_crop
from tests.data.benchmarks.dense_layouts import metres, pixels

CROP = dict(box=None, short=None, size=(16, 24), fill=(1, 2, 3))


def plane(height=24, width=32):
    """Levels that tell the depth: level = 20 + 4 · metres, smooth in both directions."""
    depth = (1 + np.add.outer(np.arange(height), np.arange(width)) / 2).astype(np.float32)
    return np.repeat((20 + 4 * depth)[..., None], 3, -1).astype(np.uint8), depth


@pytest.mark.parametrize("seed", range(8))
def test_image_and_depth_stay_together(seed, monkeypatch):
    monkeypatch.setattr(
        "dinov3_jax.data.benchmarks.depth_augment.recolour", lambda image, rng: image
    )
    image, depth = plane()
    got, metres = training_crop(image, depth, np.random.default_rng(seed), **CROP)
    assert (got.shape, metres.shape) == ((16, 24, 3), (16, 24))
    known = metres > 0
    assert known.mean() > 0.9  # a turn by 2.5 degrees uncovers corners only
    error = np.abs(got[..., 0] - (20 + 4 * metres))
    # The plane rises by 2 levels a pixel; a turn interpolates levels and takes the nearest depth.
    # Levels next to an uncovered corner are mixed with black.
    assert np.percentile(error[known], 95) <= 3


def test_the_box_and_the_short_side_come_first():
    image, depth = plane()
    own = CROP | {"box": (4, 8, 20, 32)}
    for seed in range(4):
        _, metres = training_crop(image, depth, np.random.default_rng(seed), **own)
        assert metres[metres > 0].min() >= depth[4, 8]
    small = CROP | {"short": 8}
    got, metres = training_crop(image, depth, np.random.default_rng(0), **small)
    assert (metres[8:] == 0).all()
    assert (got[8:] == (1, 2, 3)).all()
    assert (metres[:8, :8] > 0).any()


def test_an_image_of_the_size_is_kept_whole_but_for_the_turn():
    depth = metres(0, 16, 24)
    for seed in range(20):
        _, got = training_crop(pixels(0, 16, 24), depth, np.random.default_rng(seed), **CROP)
        if not (got == 0).any():  # no turn
            same = [np.array_equal(got, x) for x in (depth, depth[:, ::-1])]
            assert any(same)
            break
    else:
        pytest.fail("20 draws, and all turned")


def test_recolour_bounds():
    image = np.full((4, 4, 3), 100, np.uint8)
    made = np.array([recolour(image, np.random.default_rng(seed))[0, 0] for seed in range(300)])
    # 100^0.9 · 0.75 · 0.9 = 42.6; 100^1.1 · 1.25 · 1.1 = 217.9
    assert 42 <= made.min() < 60
    assert 165 < made.max() <= 218
    assert (made[:, 0] != made[:, 1]).any()  # each channel has a factor of its own
