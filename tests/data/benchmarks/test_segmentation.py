import numpy as np
import pytest
from PIL import Image

from dinov3_jax.data.benchmarks.segmentation import (
    CITYSCAPES,
    VOC12,
    open_segmentation,
    zero_ignored,
)
from dinov3_jax.data.sources import SourceError
from tests.data.benchmarks import dense_layouts as layouts


def test_ade20k_counts_from_one_and_ignores_zero(tmp_path):
    wanted = layouts.ade20k(tmp_path)
    for found, labels in zip(open_segmentation(str(tmp_path)), wanted, strict=True):
        assert len(found) == len(labels)
        assert len(found.classes) == 150
        for i, expected in enumerate(labels):
            image, got = found[i]
            assert image.shape == (24, 32, 3)
            np.testing.assert_array_equal(got, expected)


def test_zero_ignored():
    stored = np.array([[0, 1, 150, 255]], np.uint8)
    np.testing.assert_array_equal(zero_ignored(stored), [[255, 0, 149, 255]])


def test_cityscapes_reads_the_train_ids(tmp_path):
    layouts.cityscapes(tmp_path)
    train, test = open_segmentation(str(tmp_path))
    assert (len(train), len(test), train.classes) == (2, 1, CITYSCAPES)
    image, labels = train[1]
    np.testing.assert_array_equal(image, layouts.pixels(1))
    np.testing.assert_array_equal(labels, layouts.numbers(1, 18))


def test_voc12_reads_numbers_of_a_palette(tmp_path):
    layouts.voc12(tmp_path)
    train, test = open_segmentation(str(tmp_path))
    assert (len(train), len(test), train.classes) == (2, 1, VOC12)
    np.testing.assert_array_equal(train[1][1], layouts.numbers(1, 20))


def test_ones_own(tmp_path):
    layouts.own_masks(tmp_path)
    train, test = open_segmentation(str(tmp_path))
    assert (len(train), len(test), train.classes) == (3, 2, ("sky", "sea", "sand"))
    np.testing.assert_array_equal(test[1][0], layouts.pixels(1))
    np.testing.assert_array_equal(test[1][1], layouts.numbers(1, 2))


def test_another_layout_is_told_the_ones_there_are(tmp_path):
    with pytest.raises(
        SourceError, match=r"(?s)no segmentation data in .*ADE20k .*masks/\{train,val"
    ):
        open_segmentation(str(tmp_path))


def test_what_is_missing_is_named(tmp_path):
    layouts.own_masks(tmp_path)
    (tmp_path / "masks/val/1.png").unlink()
    with pytest.raises(SourceError, match=r"1 of 2 masks are missing, the first is .*val/1.png"):
        open_segmentation(str(tmp_path))
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(SourceError, match=r"classes.txt cannot be read .*; wanted class names"):
        open_segmentation(str(tmp_path))


def test_an_empty_split(tmp_path):
    layouts.own_masks(tmp_path, counts=(2, 0))
    with pytest.raises(SourceError, match=r"there is no folder .*images/val; wanted"):
        open_segmentation(str(tmp_path))
    (tmp_path / "images/val").mkdir()
    with pytest.raises(SourceError, match="no images of the split val"):
        open_segmentation(str(tmp_path))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((24, 31), np.uint8), "24 x 32 and 24 x 31 pixels, wanted the same"),
        (np.full((24, 32), 3, np.uint8), r"the labels \[3\], wanted 0 to 2 or 255"),
        (np.zeros((24, 32, 3), np.uint8), "the class, not its colour"),
        (np.full((24, 32), 256, np.uint16), "up to 256; wanted one number of 8 bits"),
    ],
)
def test_a_mask_that_does_not_fit(tmp_path, mask, message):
    layouts.own_masks(tmp_path)
    layouts.save(tmp_path / "masks/train/1.png", mask)
    train, _ = open_segmentation(str(tmp_path))
    train[0]
    with pytest.raises(SourceError, match=message):
        train[1]


def test_a_damaged_file_is_named(tmp_path):
    layouts.own_masks(tmp_path)
    (tmp_path / "masks/train/0.png").write_bytes(b"no image")
    (tmp_path / "images/train/1.png").write_bytes(b"no image")
    train, _ = open_segmentation(str(tmp_path))
    for i, name in enumerate(("masks/train/0.png", "images/train/1.png")):
        with pytest.raises(SourceError, match=f"{name} cannot be read"):
            train[i]


def test_sixteen_bits_are_taken_where_they_hold_classes(tmp_path):
    layouts.own_masks(tmp_path)
    Image.fromarray(np.full((24, 32), 2, np.uint16)).save(tmp_path / "masks/train/0.png")
    assert (open_segmentation(str(tmp_path))[0][0][1] == 2).all()
