import functools
import json

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.curate.embeddings import UnitRows, embed, join, read_embedded
from dinov3_jax.data.shards import write_shards
from dinov3_jax.data.sources import open_kind
from tests.curate.pools import model, recipe, write_colours
from tests.features.models import mesh

RNG = np.random.default_rng(0)
PARTS = [RNG.normal(size=(n, 5)).astype(np.float16) for n in (4, 1, 3)]
WHOLE = np.concatenate(PARTS).astype(np.float32)
UNIT = WHOLE / np.linalg.norm(WHOLE, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "index", [slice(0, 8), slice(3, 6), slice(6, 99), np.array([7, 0, 4, 4]), np.array([], int)]
)
def test_rows_of_several_arrays(index):
    rows = UnitRows(PARTS, np.arange(8))
    assert (rows.shape, rows.dtype, len(rows)) == ((8, 5), np.float32, 8)
    np.testing.assert_array_equal(rows[index], UNIT[index])


def test_some_rows_and_joined_sets():
    some = UnitRows(PARTS, np.arange(8)).take(np.array([6, 1, 4]))
    np.testing.assert_array_equal(some[:], UNIT[[6, 1, 4]])
    both = join([some, UnitRows(PARTS[::-1], np.array([0, 7]))])
    np.testing.assert_array_equal(both[:], UNIT[[6, 1, 4, 5, 3]])


def test_a_row_of_zeros_stays_one():
    np.testing.assert_array_equal(UnitRows([np.zeros((2, 3))], np.arange(2))[:], np.zeros((2, 3)))


def test_shards_give_what_their_images_give(tmp_path):
    write_colours(tmp_path / "pool", (5, 4))
    files = open_kind("folder", str(tmp_path / "pool"), labels="none")
    write_shards((files[i] for i in range(len(files))), str(tmp_path / "shards"), shard_size=4)
    shards = open_kind("shards", str(tmp_path / "shards"), labels="none")
    settings = recipe().embed
    for name, source, devices in (("a", files, 1), ("b", shards, 2)):
        embed(model(), source, tmp_path / name, settings, mesh=mesh(devices))
    one, other = (read_embedded(tmp_path / name) for name in "ab")
    assert one.ids == other.ids == list(files.files)
    # The same program on 1 and on 2 devices, float16 on disk: a last bit may round apart.
    np.testing.assert_allclose(one.points[:], other.points[:], atol=2e-3)
    assert one.digest != other.digest
    assert one.records.tolist() == list(range(12))


def test_shares_of_several_processes_make_one_folder(tmp_path):
    write_colours(tmp_path / "pool")
    files = open_kind("folder", str(tmp_path / "pool"), labels="none")
    settings = recipe().embed  # parts of 16: three of them
    embed(model(), files, tmp_path / "whole", settings, mesh=mesh(1))
    with pytest.raises(ConfigError, match="share is 2 of 2, wanted a number from 0 to 1"):
        embed(model(), files, tmp_path / "out", settings, mesh=mesh(1), share=(2, 2))
    embed(model(), files, tmp_path / "out", settings, mesh=mesh(1), share=(1, 2))
    with pytest.raises(ConfigError, match="has 1 of 3 parts"):
        read_embedded(tmp_path / "out")
    embed(model(), files, tmp_path / "out", settings, mesh=mesh(1), share=(0, 2))
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.fixture
def embedded(tmp_path):
    """Three parts of 16, 16 and 15 images."""
    write_colours(tmp_path / "pool")
    files = open_kind("folder", str(tmp_path / "pool"), labels="none")
    make = functools.partial(embed, model(), files, tmp_path / "out", recipe().embed, mesh=mesh(1))
    make()
    return tmp_path / "out", make


def cut(folder):
    path = folder / "00000-8x8.cls.npy"
    path.write_bytes(path.read_bytes()[:-2])


def fewer_rows(folder):
    path = folder / "00000-8x8.cls.npy"
    np.save(path, np.load(path)[:-1])


def swap(folder):
    """Two parts of equal shape."""
    first, second = (folder / f"0000{i}-8x8.cls.npy" for i in (0, 1))
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)


def flip(folder):
    path = folder / "00000-8x8.cls.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"00000-8x8 cannot be read \(.*\); delete 00000.jsonl there and run the same"),
        (fewer_rows, "00000-8x8 has 15 rows of cls, its index 16; delete 00000.jsonl"),
        (swap, r"00000-8x8 has cls of crc32 \d+, wanted \d+ as in its index; delete 00000.jsonl"),
        (flip, r"00000-8x8 has cls of crc32 \d+, wanted \d+ as in its index; delete 00000.jsonl"),
    ],
)
def test_files_that_are_not_those_that_were_written(embedded, damage, message):
    folder, make = embedded
    before = read_embedded(folder)
    wanted = before.points[:]
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        read_embedded(folder)
    for index in folder.glob("*.jsonl"):
        index.unlink()
    make()
    np.testing.assert_array_equal(read_embedded(folder).points[:], wanted)
    assert read_embedded(folder).digest == before.digest


def test_indexes_without_sums_are_still_read(embedded):
    folder, _ = embedded
    wanted = read_embedded(folder).points[:]
    for index in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in index.read_text().splitlines()]
        index.write_text("".join(json.dumps(_without(row, "crc32")) + "\n" for row in rows))
    np.testing.assert_array_equal(read_embedded(folder).points[:], wanted)
    path = folder / "00002-8x8.cls.npy"
    np.save(path, np.load(path)[:, :3])  # of another width
    with pytest.raises(ConfigError, match=r"embeddings of the shapes \[\(3,\), \(16,\)\]"):
        read_embedded(folder)


def _without(row, name):
    return {key: value for key, value in row.items() if key != name}
