"""What every kind of data set gives: records of images by number."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np


class SourceError(RuntimeError):
    """A data set that is missing, empty or damaged as a whole (not one unreadable image)."""


class Record(NamedTuple):
    """One image as stored: encoded bytes or pixels uint8 [h, w] or [h, w, 3]."""

    image: bytes | np.ndarray
    id: str
    label: int | None


class Source(Protocol):
    """Records numbered 0 .. len-1; it can be pickled and read from several threads at once.

    labels       int32 [len], or None where classes are unknown.
    classes      class names by label, or None.
    fingerprint  hex sha256 of what is listed; a resumed run refuses another one. It covers the
                 names (or the manifest), not the pixels.
    """

    @property
    def labels(self) -> np.ndarray | None: ...

    @property
    def classes(self) -> tuple[str, ...] | None: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


def read(source: Source, index: int) -> Record:
    """``source[index]``; ``SourceError`` where the file system gives no bytes.

    Such an error may pass (a network that is down, too many open files), so it says nothing of the
    image: a job that leaves out unreadable images must stop, and go on when it is run again.
    """
    try:
        return source[index]
    except OSError as error:
        raise SourceError(
            f"record {index} cannot be read: {error}. Put this right and run the same command "
            "again, it goes on where it stopped; an empty file in place of a lost one is left out"
        ) from error


def fingerprint(lines: Iterable[str]) -> str:
    """Hex sha256 of ``lines`` in order."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def check_ids(ids: Sequence[str], path: str):
    """Raises SourceError if two records of ``path`` have one id."""
    if len(set(ids)) < len(ids):
        (twice, count), *_ = Counter(ids).most_common(1)
        raise SourceError(f"{path} has the id {twice!r} {count} times; give each image its own")
