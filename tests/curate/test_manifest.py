import json

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.curate.embeddings import Embedded
from dinov3_jax.curate.manifest import check_manifest, write_manifest


def test_lines_and_reasons(tmp_path):
    # Record 1 of the source could not be read, so that rows and records differ.
    pool = Embedded(
        None, np.array([0, 2, 3]), np.array([0, 0, 1], np.int32), ["a", "c", "ä"], [("b", "")], ""
    )
    chosen = {"balanced": np.array([0, 2]), "retrieved:x": np.array([2])}
    rows = np.array([0, 2])
    write_manifest(tmp_path / "m.jsonl", pool, "folder photos", chosen, rows)
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "a", "source": "folder photos", "record": 0, "part": 0, "why": ["balanced"]},
        {
            "id": "ä",
            "source": "folder photos",
            "record": 3,
            "part": 1,
            "why": ["balanced", "retrieved:x"],
        },
    ]
    check_manifest(tmp_path / "m.jsonl", pool, {**chosen, "retrieved:none": rows[:0]})
    message = r"another choice \(balanced: 2 images there, 2 now, other ones; retrieved:x: 1 ima"
    with pytest.raises(ConfigError, match=message):
        check_manifest(tmp_path / "m.jsonl", pool, {"balanced": np.array([0, 1])})
