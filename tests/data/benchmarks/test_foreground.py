import numpy as np
import pytest
from PIL import Image

from dinov3_jax.data.benchmarks.foreground import open_foreground
from dinov3_jax.data.sources import SourceError
from tests.data.benchmarks.boxed import rectangles
from tests.data.benchmarks.masked import LAYOUTS, masks, write_masked


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_masks(tmp_path, layout):
    data = open_foreground(str(write_masked(tmp_path, layout)), "val")
    assert len(data) == 3
    for i in range(3):
        image, alpha = data[i]
        known = slice(None) if layout == "own" else slice(-1)
        np.testing.assert_array_equal(alpha[:, known], masks()[i][:, known])
        assert np.isnan(alpha[:, -1]).all() == (layout == "voc")
        # JPEG at quality 95 moves noise by a few levels.
        np.testing.assert_allclose(image[:4, :4], rectangles()[i][:4, :4], atol=40)


def test_grey_levels_are_shares(tmp_path):
    write_masked(tmp_path, "own")
    levels = np.linspace(0, 255, 32 * 48).astype(np.uint8).reshape(32, 48)
    Image.fromarray(levels).save(tmp_path / "masks/1.png")
    _, alpha = open_foreground(str(tmp_path), "any")[1]
    np.testing.assert_array_equal(alpha, levels.astype(np.float32) / 255)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("L", (48, 31)), r"1\.png has 31 x 48 pixels, its image 32 x 48"),
        (Image.new("RGB", (48, 32)), r"1\.png has mode RGB; wanted 8-bit grey levels"),
        (Image.new("L", (48, 32), 1), "grey levels 0 and 1; foreground is 255"),
    ],
)
def test_other_masks_are_refused(tmp_path, image, message):
    write_masked(tmp_path, "own")
    image.save(tmp_path / "masks/1.png")
    with pytest.raises(SourceError, match=message):
        _ = open_foreground(str(tmp_path), "any")[1]


@pytest.mark.parametrize(
    ("layout", "break_", "message"),
    [
        ("own", lambda root: (root / "masks/1.png").unlink(), "an image and no mask named 1"),
        ("own", lambda root: (root / "images/2.png").unlink(), "a mask and no image named 2"),
        ("own", lambda root: (root / "masks").rename(root / "m"), r"no images with .*wanted\n"),
        ("own", lambda root: (root / "masks/1.png").write_text("x"), r"1\.png cannot be read"),
        ("voc", lambda root: (root / "SegmentationClass/1.png").unlink(), "is not there"),
        ("voc", lambda root: (root / "ImageSets/Segmentation/val.txt").unlink(), "another split"),
        ("voc", lambda root: (root / "ImageSets/Segmentation/val.txt").write_text(""), "no image"),
    ],
)
def test_broken_layouts(tmp_path, layout, break_, message):
    write_masked(tmp_path, layout)
    break_(tmp_path)
    with pytest.raises(SourceError, match=message):
        _ = open_foreground(str(tmp_path), "val")[1]
