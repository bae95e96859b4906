from pathlib import Path

import pytest

from benchmarks import evaldata_mosaics
from benchmarks.evaldata import DATA, flags
from dinov3_jax.cli.eval import choose
from dinov3_jax.evals.suite import EVALUATIONS


def test_every_evaluation_has_data_and_settings_that_it_takes(
    photos, pair, film, tmp_path, monkeypatch
):
    for few in ("TRAIN", "VAL"):
        monkeypatch.setattr(evaldata_mosaics, few, 2)
    assert DATA.keys() == EVALUATIONS.keys()
    made = flags(photos, tmp_path)
    values = {
        flag: [m.partition("=")[2] for m in made if m.startswith(f"--{flag}=")]
        for flag in ("eval", "data", "set")
    }
    (names,) = values["eval"]
    chosen = choose(names.split(","), values["data"], values["set"])
    assert chosen.keys() == DATA.keys()
    assert all(Path(settings.data).exists() for settings in chosen.values())
    assert chosen["knn"].data == str(photos / "clothing")
    assert chosen["copydays"].whitening == f"{tmp_path}/copydays/others"
    there = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert flags(photos, tmp_path) == made
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == there


def test_without_photographs_it_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*clothing/train; give --photos"):
        flags(tmp_path, tmp_path / "out")
