import pytest

from benchmarks.evaldata import DATA, flags
from dinov3_jax.cli.eval import choose
from tests.data.benchmarks.folders import write_class_folders


def test_the_flags_are_those_of_dinov3_eval(tmp_path):
    write_class_folders(tmp_path / "clothing", val=1)
    made = flags(tmp_path, tmp_path / "out")
    values = {
        flag: [m.partition("=")[2] for m in made if m.startswith(f"--{flag}=")]
        for flag in ("eval", "data", "set")
    }
    (names,) = values["eval"]
    chosen = choose(names.split(","), values["data"], values["set"])
    assert chosen.keys() == DATA.keys()
    assert chosen["knn"].data == f"{tmp_path}/clothing"


def test_without_photographs_it_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*clothing/train; give --photos"):
        flags(tmp_path, tmp_path / "out")
