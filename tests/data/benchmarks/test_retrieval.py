"""Readers of the retrieval benchmarks, on tiny copies of their layouts."""

import os
import pickle

import numpy as np
import pytest

from dinov3_jax.data.benchmarks.amstertime import open_amstertime
from dinov3_jax.data.benchmarks.copydays import open_copydays
from dinov3_jax.data.benchmarks.met import open_met
from dinov3_jax.data.benchmarks.retrieval import open_retrieval
from dinov3_jax.data.benchmarks.revisited import open_revisited
from dinov3_jax.data.record import SourceError
from tests.data.benchmarks import retrieval_layouts as layouts


@pytest.mark.parametrize("protocol", [2, 4])
def test_revisited(tmp_path, protocol):
    data = open_revisited(str(layouts.revisited(tmp_path, protocol=protocol)))
    assert data.queries.files == ("q0.jpg", "q1.jpg")
    assert len(data.database) == 4
    assert data.database[3].shape == (20, 28, 3)
    np.testing.assert_array_equal(data.boxes, [[0, 0, 28, 20]] * 2)
    assert [x.tolist() for x in data.easy] == [[0], []]
    assert [x.tolist() for x in data.hard] == [[], [1]]
    assert [x.tolist() for x in data.junk] == [[2], []]


def test_a_pickle_of_numpy_1_is_read(tmp_path):
    """numpy moved its modules; lists that were written before name the old place."""
    root = layouts.revisited(tmp_path, protocol=2)
    file = root / "gnd_roxford5k.pkl"
    old = file.read_bytes().replace(b"numpy._core.", b"numpy.core.")
    assert b"numpy.core." in old
    file.write_bytes(old)
    assert len(open_revisited(str(root)).queries) == 2


class _Code:
    def __reduce__(self):
        return os.getenv, ("HOME",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imlist": _Code()}, "it asks for os.getenv, which is no list or array"),
        ({"qimlist": []}, "has 0 queries, 2 entries of truth"),
        ({"imlist": ["d0"]}, "names database rows 1 to 1; there are 1"),
        ({"gnd": [{"bbx": [0, 0, 1, 1]}] * 2}, "KeyError: 'easy'"),
    ],
)
def test_lists_that_do_not_fit(tmp_path, changes, message):
    with pytest.raises(SourceError, match=message):
        open_revisited(str(layouts.revisited(tmp_path, **changes)))


def test_a_damaged_list(tmp_path):
    root = layouts.revisited(tmp_path)
    (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps({"imlist": []})[:-3])
    with pytest.raises(SourceError, match="cannot be read"):
        open_revisited(str(root))


def test_two_lists_are_one_too_many(tmp_path):
    root = layouts.revisited(tmp_path)
    (root / "gnd_rparis6k.pkl").write_bytes(b"")
    with pytest.raises(SourceError, match="has 2 lists"):
        open_revisited(str(root))


@pytest.mark.parametrize("folder", [".", "ground_truth"])
def test_met(tmp_path, folder):
    data = open_met(str(layouts.met(tmp_path, folder=folder)), database="MET_database.json")
    np.testing.assert_array_equal(data.database.labels, [3, 3, 7, 7])
    for split in (data.val, data.test):
        np.testing.assert_array_equal(split.labels, [3, 7, -1])
        assert split.images[0].shape == (20, 28, 3)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("MET_database.json", '[{"path": "a.jpg"}]', "KeyError 'id'"),
        ("MET_database.json", "[]", "lists no images"),
        ("MET_database.json", '[{"path": "a.jpg", "id": -1}]', "has the exhibit -1"),
        ("valset.json", '[{"path": "a.jpg", "MET_id": 5}]', "none of 1 queries of .*valset.json"),
        ("testset.json", "{", "testset.json: JSONDecodeError"),
    ],
)
def test_met_lists_that_do_not_fit(tmp_path, file, text, message):
    root = layouts.met(tmp_path)
    (root / "ground_truth" / file).write_text(text)
    with pytest.raises(SourceError, match=message):
        open_met(str(root), database="MET_database.json")


def test_amstertime_pairs_by_number(tmp_path):
    root = layouts.amstertime(tmp_path)
    data = open_amstertime(str(root))
    assert data.old.files == data.new.files == ("0000.png", "0001.png", "0002.png")
    os.rename(root / "old/0001.png", root / "old/0009.png")
    with pytest.raises(SourceError, match=r"2 place\(s\) of .* alone, 0001 among them"):
        open_amstertime(str(root))


def test_copydays(tmp_path):
    root = layouts.copydays(tmp_path)
    data = open_copydays(str(root))
    np.testing.assert_array_equal(data.original_of, [0, 0, 1])
    layouts.write(root / "strong/209901.png", seed=0)
    with pytest.raises(SourceError, match="2099 has no original"):
        open_copydays(str(root))
    layouts.write(root / "original/200001.png", seed=0)
    with pytest.raises(SourceError, match="has a photograph twice"):
        open_copydays(str(root))


def test_class_folders(tmp_path):
    root = layouts.classes(tmp_path)
    data = open_retrieval(str(root))
    assert data.queries.files == ("a/0.png", "b/0.png", "c/0.png")
    assert [rows.tolist() for rows in data.positives] == [[0, 1], [2, 3], []]
    layouts.write(root / "queries/loose.png", seed=0)
    with pytest.raises(SourceError, match=r"queries/loose.png is in no class folder"):
        open_retrieval(str(root))


def test_pairs(tmp_path):
    root = layouts.pairs(tmp_path)
    data = open_retrieval(str(root))
    assert data.queries.files == ("0.png", "1.png")
    assert [rows.tolist() for rows in data.positives] == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query,positive\n", "has no pairs"),
        ("a,b\n0.png,0.png\n", r"has the columns \['a', 'b'\]"),
        ("query,positive\n0.png,9.png\n", "line 2: there is no image database/9.png"),
        ("query,positive\n9.png,0.png\n", "line 2: there is no image queries/9.png"),
    ],
)
def test_pair_lists_that_do_not_fit(tmp_path, text, message):
    root = layouts.pairs(tmp_path)
    (root / "pairs.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        open_retrieval(str(root))


@pytest.mark.parametrize(
    ("open_it", "layout"),
    [
        (open_revisited, "gnd_roxford5k.pkl or gnd_rparis6k.pkl"),
        (lambda path: open_met(path, database="MET_database.json"), "valset.json, testset.json"),
        (open_amstertime, "old/NUMBER.jpg and new/NUMBER.png"),
        (open_copydays, "original/XXXX00.jpg"),
        (open_retrieval, "queries/CLASS"),
    ],
)
def test_a_missing_folder_tells_the_layout(tmp_path, open_it, layout):
    with pytest.raises(SourceError, match=layout):
        open_it(str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="not found in it"):
        open_it(str(tmp_path))


def test_a_damaged_image_is_named(tmp_path):
    data = open_amstertime(str(layouts.amstertime(tmp_path)))
    (tmp_path / "old/0001.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"old/0001\.png cannot be read"):
        data.old[1]
