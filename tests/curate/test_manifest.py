import json

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.curate.embeddings import Embedded
from dinov3_jax.curate.manifest import (
    about_rows,
    check_manifest,
    write_manifest,
    write_shards,
)
from dinov3_jax.curate.stages import Tree
from dinov3_jax.data.pack import read_about
from dinov3_jax.data.shards import open_shards, verify_shards
from dinov3_jax.data.sources import open_kind
from tests.curate.pools import recipe, write_colours


def test_lines_and_reasons(tmp_path):
    # Record 1 of the source could not be read, so that rows and records differ.
    pool = Embedded(
        None, np.array([0, 2, 3]), np.array([0, 0, 1], np.int32), ["a", "c", "ä"], [("b", "")], ""
    )
    chosen = {"balanced": np.array([0, 2]), "retrieved:x": np.array([2])}
    rows = np.array([0, 2])
    kept = np.array([0, 2])
    tree = Tree([], [np.array([1, 0]), np.array([4, 5])])
    about = about_rows(rows, chosen, kept, tree)
    write_manifest(tmp_path / "m.jsonl", pool, "folder photos", rows, about)
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "id": "a",
            "source": "folder photos",
            "record": 0,
            "part": 0,
            "clusters": [1, 5],
            "why": ["balanced"],
        },
        {
            "id": "ä",
            "source": "folder photos",
            "record": 3,
            "part": 1,
            "clusters": [0, 4],
            "why": ["balanced", "retrieved:x"],
        },
    ]
    check_manifest(tmp_path / "m.jsonl", pool, {**chosen, "retrieved:none": rows[:0]})
    message = r"another choice \(balanced: 2 images there, 2 now, other ones; retrieved:x: 1 ima"
    with pytest.raises(ConfigError, match=message):
        check_manifest(tmp_path / "m.jsonl", pool, {"balanced": np.array([0, 1])})


def test_shards_are_shuffled_by_the_seed(tmp_path):
    write_colours(tmp_path / "pool")
    source = open_kind("folder", str(tmp_path / "pool"), labels="none")
    ids = []
    for seed in (0, 1):
        folder = tmp_path / f"{seed}"
        records = np.arange(20)
        about = lambda i: {"clusters": [i, i // 2]}  # noqa: E731
        write_shards(folder, source, "folder", "none", records, recipe().pack, about, seed=seed)
        verify_shards(str(folder))
        packed = open_shards(str(folder))
        ids.append([packed[i].id for i in range(len(packed))])
        beside = [read_about(str(folder), number)["records"] for number in range(2)]
        clusters = [row for columns in beside for row in columns["clusters"]]
        numbers = [source.files.index(name) for name in ids[-1]]
        assert clusters == [[i, i // 2] for i in numbers]
    assert sorted(ids[0]) == sorted(ids[1]) == sorted(source.files[:20])
    assert ids[0] != ids[1]
