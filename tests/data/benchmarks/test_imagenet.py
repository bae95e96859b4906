import json
import shutil

import numpy as np
import pytest

from dinov3_jax.data.benchmarks import imagenet
from dinov3_jax.data.benchmarks.classification import open_classification
from dinov3_jax.data.sources import SourceError
from tests.data.benchmarks.folders import pixels
from tests.data.benchmarks.imagenet import WNIDS, write_imagenet, write_one


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    write_imagenet(folder)
    return folder


@pytest.fixture(scope="module")
def val(root):
    return open_classification(str(root)).test


def test_real_follows_the_numbers_in_file_names(root, val):
    found = imagenet.open_real(str(root / "real.json"), val, WNIDS)
    # val/ is sorted by class: numbers 1 5, 2 6, 3 7, 4 8.
    assert found == [[], [0], [1, 0], [1], [2], [2], [3], [3]]


def test_v2_folders_are_numbers(tmp_path):
    for label in (0, 2, 10):
        write_one(tmp_path / str(label) / "a.png", pixels(0, label))
    split = imagenet.open_v2(str(tmp_path), [str(i) for i in range(11)])
    np.testing.assert_array_equal(split.labels, [0, 10, 2])  # the order of files is of strings
    np.testing.assert_array_equal(split.image(1), pixels(0, 10))
    with pytest.raises(SourceError, match="has the folder 10, wanted numbers from 0 to 3"):
        imagenet.open_v2(str(tmp_path), WNIDS)


def test_some_wnids_keep_their_labels(root):
    np.testing.assert_array_equal(
        imagenet.open_wnids(str(root / "imagenet-r"), WNIDS).labels, [1, 3]
    )
    with pytest.raises(SourceError, match=r"1 class.* n01491361"):
        imagenet.open_wnids(str(root / "imagenet-r"), WNIDS[:3])


def test_objectnet_loses_its_frame_and_what_does_not_overlap(root):
    split, right = imagenet.open_objectnet(
        str(root / "objectnet"), str(root / "objectnet.json"), WNIDS
    )
    assert right == [[0], [2, 1]]
    np.testing.assert_array_equal(split.labels, [0, 2])
    np.testing.assert_array_equal(split.image(1), pixels(2, 952))


def test_images_of_objectnet_that_cannot_be_read_are_named(root, tmp_path):
    folder = tmp_path / "objectnet"
    shutil.copytree(root / "objectnet", folder)
    split, _ = imagenet.open_objectnet(str(folder), str(root / "objectnet.json"), WNIDS)
    path = folder / "Book" / "a.png"
    path.write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"image .*Book/a.png cannot be read"):
        split.image(1)
    write_one(path, np.zeros((4, 9, 3), np.uint8))
    with pytest.raises(SourceError, match=r"Book/a.png has 4 x 9 pixels, no more than its"):
        split.image(1)


def test_all_corruptions_and_levels_are_wanted(root):
    imagenet.check_corruptions(str(root / "imagenet-c"), ("fog", "snow"))
    with pytest.raises(SourceError, match=r"lacks 5 of 10 folders .* spatter/1"):
        imagenet.check_corruptions(str(root / "imagenet-c"), ("fog", "spatter"))


def test_bad_labels_of_real_are_refused(root, val, tmp_path):
    path = tmp_path / "real.json"
    for text, message in (
        ("[[0]", "cannot be read"),
        ("[0, 1]", "no list of lists"),
        ("[[0]]", r"ILSVRC2012_val_0000000\d\.JPEG of val/ has no labels .* 1 lists"),
        (json.dumps([[999]] * 8), "has the label 999, train/ 4 classes"),
    ):
        path.write_text(text)
        with pytest.raises(SourceError, match=message):
            imagenet.open_real(str(path), val, WNIDS)
    with pytest.raises(SourceError, match=r"none\.json cannot be read"):
        imagenet.open_real(str(tmp_path / "none.json"), val, WNIDS)


def test_bad_tables_of_objectnet_are_refused(root, tmp_path):
    path = tmp_path / "table.json"
    for table, message in (
        (["Book"], "no table"),
        ({"Book": ["n00000000"]}, r"names 1 wnid\(s\) that train/ lacks, n00000000"),
        ({"book": [WNIDS[0]]}, r"no folder of .* folders are Air freshener"),
    ):
        path.write_text(json.dumps(table))
        with pytest.raises(SourceError, match=message):
            imagenet.open_objectnet(str(root / "objectnet"), str(path), WNIDS)
