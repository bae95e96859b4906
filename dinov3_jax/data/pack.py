"""Packing any source into shards: what each shard holds depends on the settings alone.

Beside ``NNNNN.array_record`` stands ``NNNNN.json``, written after it: its entry of the manifest,
the columns id, label, height, width, bytes and hash of its records, and what could not be read.
A shard whose ``.json`` is there and fits is done; so a run that was killed goes on, a finished one
does nothing, and a shard that is deleted comes back the same.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dinov3_jax.config import ConfigError
from dinov3_jax.data import order
from dinov3_jax.data.record import Source, SourceError, read
from dinov3_jax.data.shard_writing import shard_name, whole_file, write_manifest, write_shard_file
from dinov3_jax.data.stored import COLUMNS, Recode, Stored, store

_SETTINGS = "pack.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the bytes of all shards; kept in ``pack.json`` and in the manifest."""

    source: str  # kind, one of sources.KINDS
    labels: str  # "none" | "folders"
    listing: str  # the source's fingerprint
    images: int  # of the source
    shard_size: int  # images of the source a shard
    seed: int | None  # of the order; None: that of the source
    longest: int | None  # Recode's
    quality: int | None

    def __post_init__(self):
        if self.shard_size < 1:
            raise ConfigError(f"shard size is {self.shard_size}, wanted at least 1 image")
        try:
            Recode(self.longest, self.quality)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard_size)


def begin(settings: Settings, folder: str) -> list[int]:
    """Claims ``folder`` and returns the numbers of the shards that are still to be written.

    Raises ConfigError if the folder holds anything else or was begun with other settings.
    """
    os.makedirs(folder, exist_ok=True)
    file, ours = Path(folder, _SETTINGS), dataclasses.asdict(settings)
    if file.exists():
        theirs = json.loads(file.read_text())
        changed = [key for key in ours if ours[key] != theirs.get(key)]
        if changed:
            raise ConfigError(
                f"{folder} was packed with other settings: "
                + ", ".join(f"{key} {theirs.get(key)!r}, now {ours[key]!r}" for key in changed)
                + "; take these again or another folder"
            )
    # A run that was killed at this very place leaves its draft.
    elif set(os.listdir(folder)) - {draft.name for draft in Path(folder).glob(f".{_SETTINGS}.*")}:
        raise ConfigError(f"{folder} holds something that was not packed here; take a new folder")
    else:
        with whole_file(str(file)) as draft:
            Path(draft).write_text(json.dumps(ours, indent=1) + "\n")
    return [number for number in range(settings.shards) if not _done(folder, number)]


def write_shard(
    source: Source,
    settings: Settings,
    number: int,
    folder: str,
    more: Callable[[int], dict[str, Any]] = lambda index: {},
):
    """Writes shard ``number`` and its ``.json``, which the other arguments decide.

    more: further columns of the ``.json`` by name, the values of each image of ``source``.
    """
    first = number * settings.shard_size
    chosen = np.arange(first, min(first + settings.shard_size, settings.images))
    if settings.seed is not None:
        chosen = order.permute(chosen, size=settings.images, seed=settings.seed, epoch=0)
    columns = {name: [] for name in (*COLUMNS, *more(0))}
    unreadable = []
    records = _readable(source, chosen.tolist(), settings, more, columns, unreadable)
    entry, _ = write_shard_file(records, os.path.join(folder, shard_name(number)))
    with whole_file(_beside(folder, number)) as draft:
        about = {"shard": entry, "unreadable": unreadable, "records": columns}
        Path(draft).write_text(json.dumps(about) + "\n")


def finish(settings: Settings, classes: tuple[str, ...] | None, folder: str) -> dict:
    """Writes the manifest of a folder whose shards are all there, removes drafts; the manifest."""
    shards, labels, unreadable = [], [], 0
    for number in range(settings.shards):
        about = read_about(folder, number)
        shards.append(about["shard"])
        labels += about["records"]["label"]
        unreadable += len(about["unreadable"])
    if 2 * unreadable > settings.images:
        raise SourceError(
            f"{unreadable} of {settings.images} images could not be read, more than half; "
            f"{folder}/*.json say why; check the data set"
        )
    packed = {**dataclasses.asdict(settings), "unreadable": unreadable}
    manifest = write_manifest(folder, shards, labels, classes=classes, packed=packed)
    for draft in Path(folder).glob(".*.draft"):  # of runs that were killed
        draft.unlink()
    return manifest


def read_about(folder: str, number: int) -> dict:
    """The ``.json`` beside shard ``number``."""
    return json.loads(Path(_beside(folder, number)).read_text())


def _readable(
    source: Source,
    chosen: list[int],
    settings: Settings,
    more: Callable[[int], dict[str, Any]],
    columns: dict,
    unreadable: list,
) -> Iterator[Stored]:
    recode = Recode(settings.longest, settings.quality)
    for index in chosen:
        name = f"record {index}"
        try:
            record = read(source, index)
            name = record.id
            stored = store(record, recode)
        except ValueError as error:
            unreadable.append({"id": name, "error": str(error)})
            continue
        row = (name, *stored[1:6], *more(index).values())
        for column, value in zip(columns.values(), row):
            column.append(value)
        yield stored


def _done(folder: str, number: int) -> bool:
    file = os.path.join(folder, shard_name(number))
    if not (os.path.exists(file) and os.path.exists(_beside(folder, number))):
        return False
    return read_about(folder, number)["shard"]["bytes"] == os.path.getsize(file)


def _beside(folder: str, number: int) -> str:
    return os.path.join(folder, f"{number:05d}.json")
