import io
import tarfile

import pytest

from dinov3_jax.data.record import Record, SourceError
from dinov3_jax.data.tar import open_tars


def write(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_images_with_their_labels(tmp_path):
    write(tmp_path / "0.tar", [("a.jpg", b"A"), ("a.cls", b"3"), ("a.json", b"{}")])
    write(tmp_path / "1.tar", [("d/b.cls", b"5\n"), ("d/b.seg.PNG", b"BB"), ("d/c.txt", b"no")])
    source = open_tars(f"{tmp_path}/*.tar")
    assert [source[i] for i in range(len(source))] == [
        Record(b"A", "0.tar/a.jpg", 3),
        Record(b"BB", "1.tar/d/b.seg.PNG", 5),
    ]
    assert source.labels.tolist() == [3, 5]
    assert source.classes is None


def test_without_labels(tmp_path):
    write(tmp_path / "0.tar", [("a.jpg", b"A"), ("b.jpg", b"B")])
    source = open_tars(f"{tmp_path}/0.tar")
    assert source.labels is source[1].label is None
    before = source.fingerprint
    write(tmp_path / "0.tar", [("a.jpg", b"A"), ("b.jpg", b"BB")])
    assert open_tars(f"{tmp_path}/0.tar").fingerprint != before


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.txt", b"")], "no images in"),
        ([("a.jpg", b""), ("a.jpg", b"")], r"has the id '0\.tar/a\.jpg' 2 times"),
        ([("a.jpg", b""), ("a.cls", b"cat")], r"has a \.cls file without a number"),
        (
            [("a.jpg", b""), ("a.cls", b"1"), ("b.jpg", b"")],
            r"1 of 2 images .* have no label .* the first is 0\.tar/b\.jpg",
        ),
    ],
)
def test_bad_contents(tmp_path, members, message):
    write(tmp_path / "0.tar", members)
    with pytest.raises(SourceError, match=message):
        open_tars(f"{tmp_path}/0.tar")


def test_bad_files(tmp_path):
    with pytest.raises(SourceError, match="no files match"):
        open_tars(f"{tmp_path}/*.tar")
    write(tmp_path / "0.tar", [("a.jpg", b"A")], "w:gz")
    with pytest.raises(SourceError, match="no whole, uncompressed tar file"):
        open_tars(f"{tmp_path}/0.tar")
