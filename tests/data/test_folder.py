import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.data.decode import decode
from dinov3_jax.data.folder import open_folders
from dinov3_jax.data.record import SourceError

PHOTOS = Path(__file__).parents[2] / "../shared/photos"


def write_image(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), level, np.uint8)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


@pytest.fixture
def tree(tmp_path):
    for i, name in enumerate(["b/x.png", "a/deep/y.PNG", "a/z.png", "top.png"]):
        write_image(tmp_path / "set" / name, i)
    for name in [".hidden/h.png", "a/.h.png"]:
        write_image(tmp_path / "set" / name)
    (tmp_path / "set" / "LICENSE").write_text("x")
    (tmp_path / "set" / "a" / "notes.csv").write_text("x")
    return tmp_path / "set"


def test_lists_images_in_order_without_labels(tree):
    source = open_folders(str(tree), labelled=False)
    assert [source[i].id for i in range(len(source))] == [
        "a/deep/y.PNG",
        "a/z.png",
        "b/x.png",
        "top.png",
    ]
    assert source.labels is source.classes is source[0].label is None
    assert [decode(source[i].image)[0, 0, 0] for i in range(4)] == [1, 2, 0, 3]


def test_labels_are_parent_folders(tree):
    source = open_folders(str(tree), labelled=True)
    assert source.classes == ("a", "b", "deep", "set")
    assert source.labels.tolist() == [2, 0, 1, 3] == [source[i].label for i in range(4)]
    assert source.labels.dtype == np.int32


def test_several_folders_merge_their_classes(tmp_path):
    for name in ["one/train/cat/0.png", "one/train/dog/0.png", "two/train/cat/0.png"]:
        write_image(tmp_path / name)
    source = open_folders(f"{tmp_path}/two/train, {tmp_path}/one/train", labelled=True)
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [0, 0, 1]
    assert source[0].id == "two/train/cat/0.png"


def test_fingerprint_follows_the_names_not_the_place(tree, tmp_path):
    before = open_folders(str(tree), labelled=False).fingerprint
    moved = tree.rename(tmp_path / "moved")
    assert open_folders(str(moved), labelled=False).fingerprint == before
    write_image(moved / "new.png")
    assert open_folders(str(moved), labelled=False).fingerprint != before


def test_a_link_to_a_parent_is_not_followed_for_ever(tree):
    (tree / "a" / "loop").symlink_to(tree, target_is_directory=True)
    assert len(open_folders(str(tree), labelled=False)) == 4


def test_pickles(tree):
    source = pickle.loads(pickle.dumps(open_folders(str(tree), labelled=True)))
    assert source[2].label == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "no image folder is given"),
        ("{0}/none", "there is no folder .*none"),
        ("{0}/a/notes", "there is no folder"),
        ("{0},{0}/a", "one inside another"),
    ],
)
def test_errors(tree, path, message):
    with pytest.raises(SourceError, match=message):
        open_folders(path.format(tree), labelled=False)


def test_a_folder_without_images_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(SourceError, match=r"no images in .* ends in \.bmp"):
        open_folders(str(tmp_path), labelled=False)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="../shared/photos is not there")
def test_real_photographs():
    source = open_folders(f"{PHOTOS}/clothing/train,{PHOTOS}/clothing/val", labelled=True)
    assert len(source) == 3068 + 341
    assert len(source.classes) == 10
    assert decode(source[0].image).shape[2] == 3
