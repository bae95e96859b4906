import numpy as np
import pytest
from PIL import Image

from dinov3_jax.data.benchmarks.video import VOID, open_clips, read_mask
from dinov3_jax.data.sources import SourceError
from tests.data.benchmarks.masked_clips import LAYOUTS, moving_squares, write_clip, write_clips

SPLITS = {"own": "any", "davis": "val", "youtube": "train"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_clips(tmp_path, layout):
    clips = open_clips(str(write_clips(tmp_path, layout)), SPLITS[layout])
    assert [clip.name for clip in clips] == ["a", "b"]
    pixels, masks = moving_squares(seed=1)
    assert len(clips[1]) == 4
    for i in range(4):
        np.testing.assert_array_equal(clips[1].frame(i), pixels[i])
        np.testing.assert_array_equal(clips[1].mask(i), masks[i])


def test_davis_takes_the_order_of_its_list_and_no_other_clip(tmp_path):
    write_clips(tmp_path, "davis", ("a", "b", "c"))
    (tmp_path / "ImageSets/2017/val.txt").write_text("c\na\n")
    assert [clip.name for clip in open_clips(str(tmp_path), "val")] == ["c", "a"]


def test_frames_without_a_mask_and_numbers_in_names(tmp_path):
    """2.png comes before 10.png; only the masks that exist are named."""
    pixels, masks = moving_squares(5)
    write_clip(tmp_path / "x/frames", tmp_path / "x/masks", pixels, masks, every=2)
    for folder in ("frames", "masks"):
        for path in sorted((tmp_path / "x" / folder).iterdir()):
            path.rename(path.with_name(f"{5 * int(path.stem)}.png"))
    (clip,) = open_clips(str(tmp_path), "any")
    assert [mask is not None for mask in clip.masks] == [True, False, True, False, True]
    np.testing.assert_array_equal(clip.frame(2), pixels[2])
    np.testing.assert_array_equal(clip.mask(4), masks[4])
    with pytest.raises(ValueError, match="frame 1 of x has no mask"):
        clip.mask(1)


def test_numbers_of_a_palette_and_of_grey(tmp_path):
    numbers = np.array([[0, 1], [7, 255]], np.uint8)
    grey = Image.fromarray(numbers)
    grey.save(tmp_path / "grey.png")
    assert read_mask(str(tmp_path / "grey.png")).tolist() == [[0, 1], [7, 255]]
    indexed = Image.fromarray(numbers)
    indexed.putpalette(np.zeros(768, np.uint8).tobytes())  # the colours do not matter
    indexed.save(tmp_path / "indexed.png")
    assert read_mask(str(tmp_path / "indexed.png")).tolist() == [[0, 1], [7, VOID]]
    Image.fromarray(numbers > 0).save(tmp_path / "bits.png")
    assert read_mask(str(tmp_path / "bits.png")).tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("colours.png", "RGB", "colours.png is a PNG of mode RGB; wanted a PNG with a palette"),
        ("lossy.jpg", "L", "lossy.jpg is a JPEG of mode L; wanted a PNG"),
    ],
)
def test_other_masks_are_refused(tmp_path, name, mode, message):
    Image.new(mode, (4, 4)).save(tmp_path / name)
    with pytest.raises(SourceError, match=message):
        read_mask(str(tmp_path / name))


def test_a_damaged_mask_and_a_damaged_frame(tmp_path):
    write_clips(tmp_path, "own", ("a",))
    (clip,) = open_clips(str(tmp_path), "any")
    for file in (clip.masks[1], clip.frames[1]):
        with open(file, "r+b") as opened:
            opened.truncate(60)
    with pytest.raises(SourceError, match=r"mask .*00001\.png cannot be read"):
        clip.mask(1)
    with pytest.raises(SourceError, match=r"frame .*00001\.png cannot be read"):
        clip.frame(1)


def remove(path):
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


@pytest.mark.parametrize(
    ("layout", "break_", "message"),
    [
        ("own", lambda root: (root / "a/masks/00000.png").unlink(), r"first frame .* has no mask"),
        ("own", lambda root: (root / "a/frames/00002.png").unlink(), r"00002\.png has no frame of"),
        ("own", lambda root: remove(root / "b/masks"), "clip b: there is no folder .*masks,"),
        ("davis", lambda root: remove(root / "JPEGImages/480p/b"), "clip b: there is no folder"),
        ("davis", lambda root: (root / "ImageSets/2017/val.txt").write_text("\n"), "lists no clip"),
        ("davis", lambda root: (root / "ImageSets/2017/val.txt").unlink(), "give another split"),
        ("youtube", lambda root: (root / "train").rename(root / "valid"), r"no clips .*wanted\n"),
    ],
)  # fmt: skip
def test_broken_layouts(tmp_path, layout, break_, message):
    write_clips(tmp_path, layout)
    break_(tmp_path)
    with pytest.raises(SourceError, match=message):
        open_clips(str(tmp_path), SPLITS[layout])


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(SourceError, match=r"there is no folder .*nowhere, wanted\n  CLIP/frames"):
        open_clips(str(tmp_path / "nowhere"), "val")
