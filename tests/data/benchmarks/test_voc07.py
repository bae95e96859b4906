import numpy as np
import pytest

from dinov3_jax.data.benchmarks.voc07 import open_voc07
from dinov3_jax.data.sources import SourceError
from tests.data.benchmarks.voc07 import CLASSES, write_voc07


def test_labels_are_one_row_an_image(tmp_path):
    found = open_voc07(write_voc07(tmp_path, each=8))
    assert found.classes == CLASSES
    for split in (found.train, found.val, found.test):
        expected = np.arange(8)[:, None] >> np.arange(3) & 1
        expected[0, 2] = -1  # difficult
        np.testing.assert_array_equal(split.labels, expected)
        bright = [split.image(i).mean(axis=(0, 1)) > 100 for i in range(1, 8)]
        np.testing.assert_array_equal(np.array(bright), split.labels[1:] == 1)


def test_bad_lists_are_refused(tmp_path):
    with pytest.raises(SourceError, match=r"no lists CLASS_train.txt"):
        open_voc07(str(tmp_path))
    write_voc07(tmp_path, each=4)
    path = tmp_path / "ImageSets" / "Main" / "dog_val.txt"
    good = path.read_text()
    for text, message in (
        ("000004 2\n", "the line '000004 2', wanted an id and 1, 0 or -1"),
        ("", "no line"),
        (good.replace("000005", "000009"), "other images than the list of boat"),
    ):
        path.write_text(text)
        with pytest.raises(SourceError, match=message):
            open_voc07(str(tmp_path))
    path.write_text(good)
    (tmp_path / "JPEGImages" / "000006.jpg").unlink()
    with pytest.raises(SourceError, match=r"lacks 1 images of val, 000006\.jpg"):
        open_voc07(str(tmp_path))
    path.unlink()
    with pytest.raises(SourceError, match=r"no list .*dog_val\.txt"):
        open_voc07(str(tmp_path))
