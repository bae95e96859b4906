"""Every format gives back what was written, to the bit."""

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.features.formats import FORMATS, check_format, write_whole

PATHS = ["a.png", "b/ü.png", "c.png"]


def arrays(dtype):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    return {"cls": draw(3, 5), "patch_tokens": draw(3, 2, 4, 5)}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(tmp_path, name, dtype):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    check_format(name)
    wanted, stem = arrays(dtype), tmp_path / "00000-8x16"
    FORMATS[name].write(stem, PATHS, wanted)
    for names in (None, ["cls"]):
        got = FORMATS[name].read(stem, names)
        assert sorted(got) == sorted(names or wanted)
        for key, array in got.items():
            assert array.dtype == dtype
            np.testing.assert_array_equal(array, wanted[key])
    assert not list(tmp_path.glob("*.new"))


def test_npy_is_read_lazily(tmp_path):
    FORMATS["npy"].write(tmp_path / "x", PATHS, arrays("float32"))
    assert isinstance(FORMATS["npy"].read(tmp_path / "x", None)["cls"], np.memmap)


def test_files_speak_for_themselves(tmp_path):
    """Other programs find the paths beside the features."""
    parquet = pytest.importorskip("pyarrow.parquet")
    wanted = arrays("float32")
    for name in ("npz", "parquet"):
        FORMATS[name].write(tmp_path / "x", PATHS, wanted)
    assert np.load(tmp_path / "x.npz")["paths"].tolist() == PATHS
    table = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert table["path"] == PATHS
    np.testing.assert_array_equal(np.float32(table["cls"]), wanted["cls"])


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")

    def fail(draft):
        draft.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_text() == "old"


def test_mistakes(monkeypatch):
    with pytest.raises(ConfigError, match="format is 'zarr', wanted one of npz, npy, arrayrecord"):
        check_format("zarr")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"pip install dinov3_jax\[parquet\]"):
        check_format("parquet")
