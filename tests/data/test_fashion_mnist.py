import gzip
import pickle
import subprocess

import numpy as np
import pytest

from dinov3_jax.data import fashion_mnist
from dinov3_jax.data.fashion_mnist import open_fashion_mnist, read_idx
from dinov3_jax.data.record import SourceError


def write_idx(path, array):
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_split(folder, prefix, count):
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(count).integers(0, 256, (count, 28, 28)).astype(np.uint8)
    write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
    write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    return images


@pytest.fixture
def folder(tmp_path):
    write_split(tmp_path / "set", "t10k", 11)
    write_split(tmp_path / "set", "train", 23)
    return tmp_path / "set"


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without the data set and without programs to get it."""
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    monkeypatch.setattr(fashion_mnist, "_INSTALLED", tmp_path / "installed")
    monkeypatch.setattr(fashion_mnist, "_CACHE", tmp_path / "cache" / "fashion-mnist")
    monkeypatch.setattr(fashion_mnist.shutil, "which", lambda name: None)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path


@pytest.mark.parametrize(("suffix", "count"), [("", 23), (":train", 23), (":test", 11)])
def test_reads_a_folder(folder, suffix, count):
    source = open_fashion_mnist(f"{folder}{suffix}")
    assert len(source) == count
    record = source[7]
    assert record.image.shape == (28, 28, 3)
    assert record.image.dtype == np.uint8
    assert np.array_equal(record.image[..., 2], source.images[7])
    assert record.label == 7 == source.labels[7]
    assert record.id == ("test/7" if suffix == ":test" else "train/7")
    assert source.classes[9] == "ankle boot"
    assert pickle.loads(pickle.dumps(source))[7].label == 7


def test_splits_have_different_fingerprints(folder):
    prints = {open_fashion_mnist(f"{folder}:{split}").fingerprint for split in ("train", "test")}
    assert len(prints) == 2


@pytest.mark.parametrize("path", ["", "train", "test"])
def test_looks_where_the_environment_says(nowhere, folder, monkeypatch, path):
    monkeypatch.setenv("FASHION_MNIST_DIR", str(folder))
    assert len(open_fashion_mnist(path)) == (11 if path == "test" else 23)


def test_looks_where_the_package_installs(nowhere):
    write_split(nowhere / "installed", "train", 5)
    assert len(open_fashion_mnist("")) == 5


def test_unpacks_the_package_into_the_cache(nowhere, monkeypatch):
    """``apt-get`` and ``dpkg-deb`` are replaced by what they would leave behind."""

    def run(command, *, cwd, **options):
        if command[0] == "apt-get":
            (nowhere / cwd / "dataset-fashion-mnist_1_all.deb").write_bytes(b"")
        else:
            inside = fashion_mnist._INSTALLED.relative_to("/")
            write_split(nowhere / cwd / "files" / inside, "train", 6)

    monkeypatch.setattr(fashion_mnist.shutil, "which", lambda name: name)
    monkeypatch.setattr(fashion_mnist.subprocess, "run", run)
    assert len(open_fashion_mnist("")) == 6
    assert len(open_fashion_mnist(f"{nowhere}/cache/fashion-mnist")) == 6


def test_says_how_to_get_it(nowhere):
    with pytest.raises(SourceError, match=r"apt-get install dataset-fashion-mnist.*FASHION_MNIST"):
        open_fashion_mnist("")


def test_a_failed_download_is_told(nowhere, monkeypatch):
    def run(command, **options):
        raise subprocess.CalledProcessError(100, command, stderr="E: no network")

    monkeypatch.setattr(fashion_mnist.shutil, "which", lambda name: name)
    monkeypatch.setattr(fashion_mnist.subprocess, "run", run)
    with pytest.raises(SourceError, match="apt-get: E: no network"):
        open_fashion_mnist("")


def test_missing_file(tmp_path):
    with pytest.raises(SourceError, match=r"there is no file .*train-images"):
        open_fashion_mnist(str(tmp_path))


def test_damaged_files(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="not a whole gzip file"):
        read_idx(path)
    for content in (gzip.decompress(whole)[:-1], b"\0\0\x0d\x01", b""):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(SourceError, match="not a whole idx file"):
            read_idx(path)


def test_images_and_labels_must_agree(folder):
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(22, np.uint8))
    with pytest.raises(SourceError, match=r"images \[23, 28, 28\] and labels \[22\]"):
        open_fashion_mnist(str(folder))
