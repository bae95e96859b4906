"""Fashion-MNIST: 70,000 real product photographs of 28 x 28 grey pixels in 10 classes.

It is the default data set because it is small and comes from a Debian package; nothing else is
downloaded from anywhere.
"""

import dataclasses
import gzip
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from dinov3_jax.data.record import Record, SourceError, fingerprint
from dinov3_jax.data.tfds import open_tfds

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_log = logging.getLogger(__name__)
_PREFIX = {"train": "train", "test": "t10k"}
_COUNT = {"train": 60_000, "test": 10_000}
_PACKAGE = "dataset-fashion-mnist"
_INSTALLED = Path("/usr/share/datasets/fashion-mnist")  # where the Debian package puts it
_CACHE = Path("~/.cache/dinov3_jax/fashion-mnist")


@dataclasses.dataclass(frozen=True, eq=False)
class FashionMnistSource:
    """Images in file order, held in memory."""

    images: np.ndarray  # uint8 [n, 28, 28]
    labels: np.ndarray  # int32 [n]
    split: str
    classes: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        pixels = np.repeat(self.images[index][..., None], 3, axis=-1)  # [28, 28, 3]
        return Record(pixels, f"{self.split}/{index}", int(self.labels[index]))


def open_fashion_mnist(path: str):
    """Source of Fashion-MNIST; ``path`` is "", "train", "test", "DIR", "DIR:train" or "DIR:test".

    The default split is train. Without DIR the files are looked for in $FASHION_MNIST_DIR, where
    the Debian package installs them, and in the user's cache; then the Debian package is unpacked
    into the cache, and last a prepared TFDS data set is taken.
    """
    folder, split = _split_path(path)
    if folder:
        return _open_idx(Path(folder).expanduser(), split)
    known = [Path(os.environ.get("FASHION_MNIST_DIR") or _INSTALLED), _INSTALLED, _CACHE]
    for place in (place.expanduser() for place in known):
        if _files(place, split)[0].exists():
            return _open_idx(place, split)
    failures = []
    try:
        _unpack_package(_CACHE.expanduser())
        return _open_idx(_CACHE.expanduser(), split)
    except (OSError, subprocess.SubprocessError) as error:
        failures.append(f"apt-get: {getattr(error, 'stderr', None) or error}".strip())
    try:
        return open_tfds(f"fashion_mnist:{split}")
    except (ImportError, SourceError) as error:
        failures.append(f"TFDS: {error}")
    raise SourceError(
        f"Fashion-MNIST is not on this machine ({'; '.join(failures)}). Do one of: "
        f"`apt-get install {_PACKAGE}`; put train-images-idx3-ubyte.gz and its three companions "
        "into a folder and set FASHION_MNIST_DIR to it; or train on your own folder of images."
    )


def read_idx(path: Path) -> np.ndarray:
    """uint8 array of a gzipped idx file: images [n, h, w] or labels [n]."""
    try:
        data = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise SourceError(f"there is no file {path}; correct data.path") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise SourceError(f"{path} is not a whole gzip file: {error}; get it again") from error
    rank = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0  # 8: unsigned bytes
    shape = tuple(np.frombuffer(data, ">u4", count=rank, offset=4).tolist()) if rank else ()
    if not rank or len(data) != 4 + 4 * rank + int(np.prod(shape)):
        raise SourceError(f"{path} is not a whole idx file of unsigned bytes; get it again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _split_path(path: str) -> tuple[str, str]:
    if path in ("", *_PREFIX):
        return "", path or "train"
    folder, colon, split = path.rpartition(":")
    return (folder, split) if colon and split in _PREFIX else (path, "train")


def _files(folder: Path, split: str) -> tuple[Path, Path]:
    prefix = folder / _PREFIX[split]
    return Path(f"{prefix}-images-idx3-ubyte.gz"), Path(f"{prefix}-labels-idx1-ubyte.gz")


def _open_idx(folder: Path, split: str) -> FashionMnistSource:
    images, labels = map(read_idx, _files(folder, split))
    if images.ndim != 3 or labels.shape != images.shape[:1] or not len(images):
        raise SourceError(
            f"{folder} has images {list(images.shape)} and labels {list(labels.shape)} for "
            f"{split!r}, wanted [n, h, w] and [n]; get the files again"
        )
    name = f"fashion_mnist {split} {len(images)} {_COUNT[split]}"
    return FashionMnistSource(images, labels.astype(np.int32), split, CLASSES, fingerprint([name]))


def _unpack_package(target: Path):
    """Fetches the Debian package and puts its files into ``target``; needs no root."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise FileNotFoundError("apt-get and dpkg-deb are not both there")
    _log.info("Fashion-MNIST: fetching the Debian package %s into %s", _PACKAGE, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:

        def run(*command):
            subprocess.run(
                command, cwd=work, check=True, capture_output=True, text=True, timeout=600
            )

        # Package lists of our own: a fresh machine has none, and its own may be root's.
        for folder in ("lists/partial", "cache/archives/partial"):
            Path(work, folder).mkdir(parents=True)
        apt = ("apt-get", "-o", f"Dir::State::Lists={work}/lists", "-o", f"Dir::Cache={work}/cache")
        run(*apt, "update")
        run(*apt, "download", _PACKAGE)
        run("dpkg-deb", "-x", str(next(Path(work).glob("*.deb"))), "files")
        unpacked = Path(work, "files", _INSTALLED.relative_to("/"))
        if not target.exists():  # another process may have been quicker
            shutil.move(unpacked, target)
