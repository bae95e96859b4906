import json
import pickle

import numpy as np
import pytest

from dinov3_jax.data.record import Record, SourceError
from dinov3_jax.data.shards import write_shards
from dinov3_jax.data.sources import open_kind


def line(i, pool, **change):
    about = {"id": f"{i}", "source": f"shards {pool}", "record": i, "part": 0, "why": ["balanced"]}
    return json.dumps({**about, **change}) + "\n"


@pytest.fixture
def pool(tmp_path):
    images = [np.full((4, 4, 3), i, np.uint8) for i in range(6)]
    records = [Record(image, f"{i}", i % 2) for i, image in enumerate(images)]
    folder = tmp_path / "a pool"
    write_shards(records, str(folder), classes=("even", "odd"))
    return folder


def opened(tmp_path, *lines):
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(lines))
    return open_kind("curated", str(path), labels="none")


def test_the_chosen_records_of_the_pool(tmp_path, pool):
    source = opened(tmp_path, line(1, pool), line(2, pool), line(5, pool))
    source = pickle.loads(pickle.dumps(source))
    whole = open_kind("shards", str(pool), labels="none")
    assert [source[i] for i in range(len(source))] == [whole[i] for i in (1, 2, 5)]
    assert (source.labels.tolist(), source.classes) == ([1, 0, 1], ("even", "odd"))
    assert source.fingerprint != opened(tmp_path, line(1, pool)).fingerprint


def test_another_pool(tmp_path, pool):
    source = opened(tmp_path, line(1, pool), line(2, pool, id="x"))
    assert source[0].id == "1"
    with pytest.raises(SourceError, match="the pool has '2' where 'x' was chosen; put the pool"):
        source[1]
    with pytest.raises(SourceError, match=r"has record 6, its pool shards .*a pool has 6; put"):
        opened(tmp_path, line(6, pool))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ['{"path": "a.jpg"}\n'],
            r"line 1 is not of a curation \(KeyError\('source'\)\): wanted id",
        ),
        (["no JSON\n"], r"line 1 is not of a curation \(JSONDecodeError"),
        ([line(0, "a"), line(1, "b")], "speaks of 2 pools, wanted lines of one curation"),
        ([], "speaks of 0 pools"),
    ],
)
def test_other_files(tmp_path, lines, message):
    with pytest.raises(SourceError, match=message):
        opened(tmp_path, *lines)
    with pytest.raises(SourceError, match=r"there is no file .*none.jsonl"):
        open_kind("curated", str(tmp_path / "none.jsonl"), labels="none")
