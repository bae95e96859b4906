import io
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.data.decode import decode
from dinov3_jax.data.record import Record, SourceError
from dinov3_jax.data.shards import open_shards, verify_shards, write_shards


def encoded(level):
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 7, 3), level % 256, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def records(count, *, labelled=True):
    for i in range(count):
        yield Record(encoded(i), f"set/{i}", i % 3 if labelled else None)


@pytest.fixture
def folder(tmp_path):
    write_shards(records(25), str(tmp_path / "shards"), shard_size=10, classes=("a", "b", "c"))
    return tmp_path / "shards"


def test_round_trip(folder):
    source = open_shards(str(folder))
    assert len(source) == 25
    assert source.classes == ("a", "b", "c")
    assert [source[i] for i in range(25)] == list(records(25))
    assert source.labels.dtype == np.int32
    assert source.labels.tolist() == [i % 3 for i in range(25)]
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"0000{i}.array_record" for i in range(3)] + ["labels.npy", "manifest.json"]
    verify_shards(str(folder))


def test_threads_and_pickle(folder):
    source = pickle.loads(pickle.dumps(open_shards(str(folder))))
    index = np.random.default_rng(0).integers(0, 25, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda i: source[i].id, index))
    assert ids == [f"set/{i}" for i in index]


def test_pixels_are_stored_without_loss(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    write_shards([Record(pixels, "x", None)], str(tmp_path / "s"))
    source = open_shards(str(tmp_path / "s"))
    assert np.array_equal(decode(source[0].image), pixels)
    assert source.labels is source.classes is source[0].label is None


def test_manifest_covers_every_shard(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["total"] == 25
    assert [shard["count"] for shard in manifest["shards"]] == [10, 10, 5]


def test_fingerprint_follows_the_content(folder, tmp_path):
    write_shards(records(25), str(tmp_path / "same"), shard_size=10, classes=("a", "b", "c"))
    write_shards(records(24), str(tmp_path / "other"), shard_size=10, classes=("a", "b", "c"))
    first, same, other = (
        open_shards(str(tmp_path / name)).fingerprint for name in ("shards", "same", "other")
    )
    assert first == same != other


def test_missing_shard(folder):
    (folder / "00001.array_record").unlink()
    with pytest.raises(SourceError, match=r"00001\.array_record is missing"):
        open_shards(str(folder))


def test_short_shard(folder):
    path = folder / "00001.array_record"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"00001\.array_record is \d+ bytes long, wanted"):
        open_shards(str(folder))


def test_wrong_count(folder):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][0]["count"] = 9
    manifest["shards"][1]["count"] = 11
    path.write_text(json.dumps(manifest))
    with pytest.raises(SourceError, match="has 10 records, wanted 9"):
        open_shards(str(folder))[0]


def test_changed_bytes_are_found_by_verify(folder):
    path = folder / "00002.array_record"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"00002\.array_record has crc32"):
        verify_shards(str(folder))


def test_changed_labels_are_found_by_verify(folder):
    path = folder / "labels.npy"
    data = bytearray(path.read_bytes())
    data[-4] ^= 1  # of the last label, 0
    data[-4 - 4 * 20] ^= 2  # of record 4
    path.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        verify_shards(str(folder))
    first, last = str(caught.value).split("\n")
    assert "labels.npy has 3 for 'set/4' in 00000.array_record, wanted 1 as in the record" in first
    assert "labels.npy has 1 for 'set/24' in 00002.array_record, wanted 0" in last


def test_wrong_number_of_labels(folder):
    np.save(folder / "labels.npy", np.zeros(3, np.int32))
    with pytest.raises(SourceError, match="has 3 labels, wanted 25"):
        open_shards(str(folder))


def test_not_a_shard_folder(tmp_path):
    with pytest.raises(SourceError, match=r"there is no .*manifest\.json"):
        open_shards(str(tmp_path))


@pytest.mark.parametrize("index", [-1, 25])
def test_index_out_of_range(folder, index):
    with pytest.raises(IndexError, match=r"wanted 0\.\.24"):
        open_shards(str(folder))[index]


def test_a_failed_write_leaves_nothing(tmp_path):
    def broken():
        yield from records(3)
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        write_shards(broken(), str(tmp_path / "s"), shard_size=2)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept(folder):
    with pytest.raises(FileExistsError, match="already there"):
        write_shards(records(1), str(folder))


def test_labels_of_all_or_none(tmp_path):
    mixed = [*records(2), *records(1, labelled=False)]
    with pytest.raises(ValueError, match="2 of 3 records have a label"):
        write_shards(mixed, str(tmp_path / "s"))


def test_no_records(tmp_path):
    with pytest.raises(ValueError, match="no records"):
        write_shards([], str(tmp_path / "s"))
