import numpy as np
import pytest
from PIL import Image

from dinov3_jax.data.benchmarks.classification import open_classification
from dinov3_jax.data.folder import open_folders
from dinov3_jax.data.shards import write_shards
from dinov3_jax.data.sources import SourceError
from tests.data import test_fashion_mnist as idx_files
from tests.data.benchmarks.folders import pixels, write_class_folders, write_imagenet, write_split


def test_class_folders(tmp_path):
    found = open_classification(write_class_folders(tmp_path, train=3, val=1, test=2))
    assert found.classes == ("ant", "bee", "cat")
    assert found.val is not None
    assert [len(found.train), len(found.val), len(found.test)] == [9, 3, 6]
    np.testing.assert_array_equal(found.test.labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(found.train.image(4), pixels(1, 101))


def test_imagenet_is_tested_on_val(tmp_path):
    found = open_classification(write_imagenet(tmp_path))
    assert found.val is None
    assert [len(found.train), len(found.test)] == [6, 4]
    assert found.classes == ("n01440764", "n01443537")


def test_a_test_without_some_classes_keeps_the_numbers_of_train(tmp_path):
    root = write_class_folders(tmp_path, test=0)
    write_split(tmp_path / "test", ["cat"], 2)
    np.testing.assert_array_equal(open_classification(root).test.labels, [2, 2])


def test_shards_are_a_split_too(tmp_path):
    write_class_folders(tmp_path / "files")
    for split in ("train", "test"):
        source = open_folders(str(tmp_path / "files" / split), labelled=True)
        write_shards(source, str(tmp_path / "shards" / split), classes=source.classes)
    found = open_classification(str(tmp_path / "shards"))
    np.testing.assert_array_equal(found.test.labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(found.test.image(5), pixels(2, 241))


def test_fashion_mnist(tmp_path):
    idx_files.write_split(tmp_path, "train", 23)
    images = idx_files.write_split(tmp_path, "t10k", 11)
    found = open_classification(f"fashion_mnist:{tmp_path}")
    assert [len(found.train), len(found.test), len(found.classes)] == [23, 11, 10]
    np.testing.assert_array_equal(found.test.image(3)[..., 1], images[3])


def without_train(root):
    write_split(root / "test", ["ant"])


def without_test(root):
    write_split(root / "train", ["ant"])


def loose_images(root):
    write_class_folders(root)
    Image.fromarray(pixels(0, 0)).save(root / "test" / "loose.png")


def new_class_in_test(root):
    write_class_folders(root)
    write_split(root / "test", ["dog"])


def empty_test(root):
    write_split(root / "train", ["ant"])
    (root / "test" / "ant").mkdir(parents=True)


def unlabelled_shards(root):
    for split in ("train", "test"):
        write_split(root / "files" / split, ["ant"])
        source = open_folders(str(root / "files" / split), labelled=False)
        write_shards(source, str(root / split))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"has no splits, wanted\n  train/CLASS"),
        (without_train, "has test splits, wanted"),
        (without_test, "has train splits, wanted"),
        (loose_images, r"1 image\(s\) lie directly in .*test, loose.png among them"),
        (new_class_in_test, r"test/ has 1 class\(es\) that train/ lacks, dog"),
        (empty_test, "no images in .*test"),
        (unlabelled_shards, "train has no labels"),
    ],
)
def test_errors(make, message, tmp_path):
    make(tmp_path)
    with pytest.raises(SourceError, match=message):
        open_classification(str(tmp_path))


def test_an_unreadable_image_is_named(tmp_path):
    root = write_class_folders(tmp_path)
    (tmp_path / "test" / "bee" / "1.png").write_bytes(b"no image")
    test = open_classification(root).test
    with pytest.raises(SourceError, match=r"image bee/1.png cannot be read"):
        test.image(3)
