import dataclasses

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.video import VOID, open_clips
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.tracking.davis import DavisSettings, evaluate, object_scores, scored_frames
from tests.data.benchmarks.masked_clips import moving_squares, write_clip, write_clips
from tests.evals.constructed import levels, noise
from tests.features.models import images, mesh, vit

# A patch of the tiny model is 8 pixels, half a square.
TINY = {"short_side": 32, "context": 2, "radius": 3, "top_k": 2, "temperature": 0.02}


@pytest.fixture(scope="module")
def model():
    return vit(patch_size=8)


def test_true_masks_score_100_and_swapped_ones_0():
    _, masks = moving_squares()
    truth = {i: masks[i] for i in (1, 2)}
    np.testing.assert_array_equal(object_scores(truth, truth, np.unique(masks)), np.ones((2, 2)))
    swapped = {i: np.array([0, 2, 1])[mask] for i, mask in truth.items()}
    assert object_scores(swapped, truth, np.unique(masks))[:, 0].tolist() == [0, 0]


def test_void_pixels_do_not_count():
    """Whatever is found there, J is that of the rest: 1 / 1."""
    truth = np.array([[1, VOID, 0, 0]], np.int16)
    for found in ([[1, 1, 0, 0]], [[1, 0, 0, 0]]):
        scores = object_scores({1: np.array(found)}, {1: truth}, np.array([1]))
        assert scores[0, 0] == 1


@pytest.mark.parametrize("layout", ["own", "davis", "youtube"])
def test_squares_of_one_colour_are_followed(model, tmp_path, layout):
    """Even random weights tell red from blue and grey. Frames without a mask are not scored."""
    path = str(write_clips(tmp_path, layout))
    split = {"own": "any", "davis": "val", "youtube": "train"}[layout]
    result = evaluate(model, DavisSettings(path, split=split, **TINY), mesh(1))
    assert (result.metrics["clips"], result.metrics["objects"]) == (2, 4)
    assert result.metrics["J"] > 80
    assert result.metrics["J&F"] == (result.metrics["J"] + result.metrics["F"]) / 2
    assert len(result.pictures) == 2
    for picture in result.pictures:
        assert picture.pixels.dtype == np.uint8
        assert max(picture.pixels.shape) <= 512
    qualities = [float(p.caption.split("J&F ")[1].split(":")[0]) for p in result.pictures]
    assert qualities == sorted(qualities)


# One patch says what a patch is, wherever the other one was; edges are those of patches.
ONE = {"short_side": 128, "context": 2, "radius": None, "top_k": 1, "upsample": "nearest"}


def test_a_perfect_feature_scores_100(tmp_path):
    path = str(write_clips(tmp_path, "own"))
    metrics = evaluate(levels(8), DavisSettings(path, **ONE | {"short_side": 32}), mesh(1)).metrics
    assert metrics["J"] == metrics["F"] == 100


def test_noise_is_chance(tmp_path):
    """Found at random over a quarter of the frame, which p = 1/4 of it is in truth: J has p^2 in
    common of 2 p - p^2, which is p / (2 - p)."""
    masks = np.zeros((8, 128, 128), np.uint8)
    masks[:, 32:96, 32:96] = 1
    for clip in range(4):
        folders = tmp_path / f"{clip}/frames", tmp_path / f"{clip}/masks"
        write_clip(*folders, images(8, 128, 128, seed=clip), masks)
    metrics = evaluate(noise(4), DavisSettings(str(tmp_path), **ONE), mesh(1)).metrics
    # 1024 patches take the label of another, and the next frame theirs in turn: p itself drifts
    # by 1.4 % a frame, J by 1 %; four clips.
    assert metrics["J"] == pytest.approx(100 / 7, abs=3)


def test_the_same_on_8_devices(model, tmp_path):
    settings = DavisSettings(str(write_clips(tmp_path, "own", frames=5)), **TINY)
    alone, spread = (evaluate(model, settings, mesh(n)).metrics for n in (1, 8))
    assert alone == spread  # masks are decisions: float32 noise would have to sit on a tie


def test_frames_in_which_nothing_can_be_seen(model, tmp_path):
    """Black frames after the first: the squares move on and the mask cannot follow."""
    pixels, masks = moving_squares(3, step=16)
    pixels[1:] = 0
    write_clip(tmp_path / "a/frames", tmp_path / "a/masks", pixels, masks)
    metrics = evaluate(model, DavisSettings(str(tmp_path), **TINY), mesh(1)).metrics
    assert metrics["J"] < 35


def test_objects_that_come_later_are_background_and_empty_clips_are_counted(model, tmp_path):
    pixels, masks = moving_squares()
    late = masks.copy()
    late[0][late[0] == 2] = 0
    write_clip(tmp_path / "late/frames", tmp_path / "late/masks", pixels, late)
    write_clip(tmp_path / "none/frames", tmp_path / "none/masks", pixels, 0 * masks)
    metrics = evaluate(model, DavisSettings(str(tmp_path), **TINY), mesh(1)).metrics
    counts = {"clips": 1, "objects": 1, "clips_without_object": 1}
    assert {name: metrics[name] for name in counts} == counts
    only = DavisSettings(str(tmp_path / "other"), **TINY)
    write_clip(tmp_path / "other/x/frames", tmp_path / "other/x/masks", pixels, 0 * masks)
    with pytest.raises(SourceError, match=r"no clip of .*other has an object in its first frame"):
        evaluate(model, only, mesh(1))


def test_scored_frames(tmp_path):
    write_clips(tmp_path / "a", "own", ("a",), frames=6, every=2)
    (clip,) = open_clips(str(tmp_path / "a"), "any")
    assert scored_frames(clip) == [2, 4]
    write_clips(tmp_path / "b", "own", ("b",), frames=2)
    (clip,) = open_clips(str(tmp_path / "b"), "any")
    with pytest.raises(SourceError, match="clip b has 2 frames and no mask between"):
        scored_frames(clip)


def test_a_fraction_of_the_clips(model, tmp_path):
    settings = DavisSettings(str(write_clips(tmp_path, "own", "abcde", frames=3)), **TINY)
    few = dataclasses.replace(settings, fraction=0.4)
    names = {
        seed: [p.caption[0] for p in evaluate(model, changed, mesh(1)).pictures]
        for seed in range(2)
        for changed in (dataclasses.replace(few, seed=seed),)
    }
    assert [len(found) for found in names.values()] == [2, 2]
    assert set(names[0]) != set(names[1])
    with pytest.raises(ConfigError, match="fraction is 0, wanted above 0"):
        evaluate(model, dataclasses.replace(settings, fraction=0), mesh(1))


def test_a_mask_of_another_size(model, tmp_path):
    pixels, masks = moving_squares()
    write_clip(tmp_path / "a/frames", tmp_path / "a/masks", pixels, masks)
    other = moving_squares(4, width=56)[1]
    write_clip(tmp_path / "x/frames", tmp_path / "x/masks", pixels, other)
    (tmp_path / "x/masks/00001.png").replace(tmp_path / "a/masks/00001.png")
    with pytest.raises(SourceError, match=r"mask of frame 1 has 32 x 56 pixels, .* 32 x 48"):
        evaluate(model, DavisSettings(str(tmp_path), **TINY), mesh(1))
