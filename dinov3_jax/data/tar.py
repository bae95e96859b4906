"""Tar files as webdataset writes them: images, and beside each perhaps its label in a ``.cls``."""

import dataclasses
import glob
import os
import tarfile

import numpy as np

from dinov3_jax.data.folder import SUFFIXES
from dinov3_jax.data.record import Record, SourceError, check_ids, fingerprint


@dataclasses.dataclass(frozen=True, eq=False)
class TarSource:
    """Images in the order of the files and of what they hold; id: "FILE/MEMBER"."""

    files: tuple[str, ...]
    file: np.ndarray  # int32 [len], in ``files``
    offset: np.ndarray  # int64 [len], bytes
    size: np.ndarray  # int64 [len], bytes
    ids: tuple[str, ...]
    labels: np.ndarray | None
    fingerprint: str
    classes: None = None  # tar files hold numbers, no names

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        with open(self.files[self.file[index]], "rb") as stream:
            stream.seek(int(self.offset[index]))
            data = stream.read(int(self.size[index]))
        label = None if self.labels is None else int(self.labels[index])
        return Record(data, self.ids[index], label)


def open_tars(path: str) -> TarSource:
    """Source of the uncompressed tar files that ``path``, a name or a glob, matches.

    A member is an image by its suffix. KEY.jpg has the label that KEY.cls holds, a number; either
    all images have one or none has.
    """
    found = sorted(glob.glob(os.path.abspath(os.path.expanduser(path)), recursive=True))
    files = tuple(name for name in found if os.path.isfile(name))
    if not files:
        raise SourceError(f"no files match {path}; correct the path (a glob in quotes)")
    places, ids, labels = [], [], []
    root = os.path.commonpath([os.path.dirname(name) for name in files])
    for number, name in enumerate(files):
        images, numbers = _members(name)
        for key, member in images:
            places.append((number, member.offset_data, member.size))
            ids.append(f"{os.path.relpath(name, root)}/{member.name}")
            labels.append(numbers.get(key))
    if not ids:
        raise SourceError(
            f"no images in {path}: wanted at least one member that ends in {', '.join(SUFFIXES)}"
        )
    check_ids(ids, path)
    missing = labels.count(None)
    if missing not in (0, len(labels)):
        unlabelled = ids[labels.index(None)]
        raise SourceError(
            f"{missing} of {len(labels)} images in {path} have no label beside them, the first is "
            f"{unlabelled}; wanted a .cls file for all or none"
        )
    columns = np.array(places, np.int64).T
    return TarSource(
        files=files,
        file=columns[0].astype(np.int32),
        offset=columns[1],
        size=columns[2],
        ids=tuple(ids),
        labels=None if missing else np.array(labels, np.int32),
        fingerprint=fingerprint(
            f"{id_} {size} {label}" for id_, size, label in zip(ids, columns[2], labels)
        ),
    )


def _members(name: str) -> tuple[list[tuple[str, tarfile.TarInfo]], dict[str, int]]:
    """((key, image) in order, label by key) of one file; a key goes to the first dot."""
    images, numbers = [], {}
    try:
        with tarfile.open(name, "r:") as archive:
            for member in archive:
                folder, _, last = member.name.rpartition("/")
                key, _, suffix = last.partition(".")
                key, suffix = f"{folder}/{key}", os.path.splitext(last)[1].lower()
                if not member.isfile() or last.startswith("."):
                    continue
                if suffix in SUFFIXES:
                    images.append((key, member))
                elif suffix == ".cls":
                    numbers[key] = int(archive.extractfile(member).read())  # type: ignore
    except tarfile.TarError as error:
        raise SourceError(
            f"{name} is no whole, uncompressed tar file ({error}); unpack or decompress it"
        ) from error
    except ValueError as error:
        raise SourceError(f"{name} has a .cls file without a number: {error}") from error
    return images, numbers
