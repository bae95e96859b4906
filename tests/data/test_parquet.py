"""The reader needs pyarrow, which is an extra: its own tests run with -m beam."""

import sys

import pytest

from dinov3_jax.data.parquet import open_parquet
from dinov3_jax.data.record import Record, SourceError


def write(path, columns, rows=2):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), str(path), row_group_size=rows)


def test_without_pyarrow(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SourceError, match=r"pip install 'dinov3_jax\[parquet\]'"):
        open_parquet(f"{tmp_path}/0.parquet")


@pytest.mark.beam
def test_rows_of_several_groups_and_files(tmp_path):
    structs = [{"bytes": bytes([i]), "path": None} for i in range(5)]
    write(tmp_path / "0.parquet", {"image": structs, "label": [4, 3, 2, 1, 0]})
    write(tmp_path / "1.parquet", {"image": [b"x", None], "label": [7, 8], "id": ["u", "v"]})
    source = open_parquet(f"{tmp_path}/*.parquet")
    assert [source[i] for i in range(6)] == [
        *(Record(bytes([i]), f"0.parquet/{i}", 4 - i) for i in range(5)),
        Record(b"x", "u", 7),
    ]
    assert source.labels.tolist() == [4, 3, 2, 1, 0, 7, 8]
    with pytest.raises(ValueError, match="no image bytes"):
        source[6]


@pytest.mark.beam
def test_bad_files(tmp_path):
    with pytest.raises(SourceError, match="no files match"):
        open_parquet(f"{tmp_path}/*.parquet")
    path = tmp_path / "0.parquet"
    path.write_bytes(b"nothing")
    with pytest.raises(SourceError, match="no whole Parquet file"):
        open_parquet(str(path))
    write(path, {"img": [b""]})
    with pytest.raises(SourceError, match=r"has the columns \['img'\], wanted image"):
        open_parquet(str(path))
    write(path, {"image": [b"", b""], "label": [1, None]})
    with pytest.raises(SourceError, match="1 of 2 rows"):
        open_parquet(str(path))
    write(path, {"image": [b"", b""], "id": ["a", "a"]})
    with pytest.raises(SourceError, match="has the id 'a' 2 times"):
        open_parquet(str(path))
