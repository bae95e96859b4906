import json

import pytest

from dinov3_jax.data.manifest import open_manifest
from dinov3_jax.data.record import Record, SourceError


def write(folder, *rows):
    path = folder / "list.jsonl"
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return str(path)


def test_names_become_numbers(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"A")
    (tmp_path / "b.jpg").write_bytes(b"B")
    rows = [{"path": "b.jpg", "label": "dog"}, {"path": "a.jpg", "id": "x", "label": "cat"}]
    source = open_manifest(write(tmp_path, *rows, ""))
    assert [source[0], source[1]] == [Record(b"B", "b.jpg", 1), Record(b"A", "x", 0)]
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [1, 0]


def test_numbers_and_none(tmp_path):
    numbered = open_manifest(write(tmp_path, {"path": "a", "label": 7}))
    assert numbered.labels.tolist() == [7]
    bare = open_manifest(write(tmp_path, {"path": "a"}))
    assert numbered.classes is bare.classes is bare.labels is None
    assert numbered.fingerprint != bare.fingerprint


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no lines"),
        (["{"], "line 1 is no JSON"),
        ([{"path": "a"}, {"id": "b"}], "line 2 has no path"),
        ([{"path": 3}], "line 1 has path = 3"),
        ([{"path": "a", "url": "b"}], "line 1 has url = 'b'"),
        ([{"path": "a", "label": True}], "line 1 has label = True"),
        ([{"path": "a"}, {"path": "a"}], "has the id 'a' 2 times"),
        ([{"path": "a", "label": 1}, {"path": "b"}], "labels of the types int, none"),
    ],
)
def test_bad_lines(tmp_path, rows, message):
    with pytest.raises(SourceError, match=message):
        open_manifest(write(tmp_path, *rows))


def test_no_file(tmp_path):
    with pytest.raises(SourceError, match="there is no file"):
        open_manifest(f"{tmp_path}/none.jsonl")
