"""``dinov3 view track`` with a tiny model, on squares that move by one patch a frame."""

import re

import numpy as np
import pytest
from PIL import Image, ImageSequence

from dinov3_jax.cli import view
from dinov3_jax.config import ConfigError
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.tracking.overlay import paint
from tests.data.benchmarks.masked_clips import moving_squares, write_clip
from tests.features.models import vit

FLAGS = ("--short-side=32", "--context=2", "--radius=3", "--top-k=2", "--temperature=0.02")


@pytest.fixture(scope="module")
def model():
    return vit(patch_size=8)


@pytest.fixture
def clip(tmp_path):
    pixels, masks = moving_squares()
    write_clip(tmp_path / "frames", tmp_path / "given", pixels, masks)
    return pixels, masks


@pytest.fixture
def verb(model, monkeypatch, tmp_path):
    def verb(video, *flags, mask="given/00000.png"):
        monkeypatch.setattr(view, "open_model", lambda options: model)
        where = (f"--mask={tmp_path / mask}", "--model=tiny", f"--out={tmp_path}/out")
        view.run(["track", str(tmp_path / video), *where, *FLAGS, *flags])
        masks, overlays = (
            np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])
            for folder in (tmp_path / "out/masks", tmp_path / "out/overlays")
        )
        with Image.open(tmp_path / "out/track.gif") as gif:
            moving = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
            return masks, overlays, moving, gif.info["duration"]

    return verb


def test_masks_overlays_and_a_gif(verb, clip):
    pixels, wanted = clip
    masks, overlays, moving, duration = verb("frames")
    assert masks.shape == wanted.shape
    np.testing.assert_array_equal(masks[0], wanted[0])
    assert (masks == wanted).mean() > 0.9
    assert set(np.unique(masks)) == {0, 1, 2}
    for frame, mask, overlay in zip(pixels, masks, overlays):
        np.testing.assert_array_equal(overlay, paint(frame, mask))
    assert len(moving) == 4
    assert moving[0].shape == (32, 48, 3)
    assert duration == 100


def test_a_gif_and_its_first_frames(verb, clip, tmp_path):
    first, *others = map(Image.fromarray, clip[0])
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=40)
    masks, _, moving, duration = verb("a.gif", "--frames=3")
    assert len(masks) == len(moving) == 3
    assert duration == 40


def test_mistakes(verb, clip, tmp_path):
    Image.new("L", (48, 32)).save(tmp_path / "empty.png")
    Image.new("L", (24, 16), 1).save(tmp_path / "small.png")
    cases = [
        ("frames", {"mask": "empty.png"}, SourceError, "has no object: every pixel is 0"),
        (
            "frames",
            {"mask": "small.png"},
            SourceError,
            "small.png has 16 x 24 pixels, the first frame 32 x 48",
        ),
        ("frames", {"mask": "none.png"}, SourceError, "none.png cannot be read"),
        ("nowhere", {}, SourceError, "there is no video"),
    ]
    for video, options, error, message in cases:
        with pytest.raises(error, match=re.escape(message)):
            verb(video, **options)
    with pytest.raises(ConfigError, match="top_k is 0, wanted at least 1"):
        verb("frames", "--top-k=0")
