"""Shards: ArrayRecord files with a manifest, for sets too large for a folder of files.

A folder holds ``00000.array_record`` .., ``manifest.json`` and, where classes are known,
``labels.npy``. ``stored`` says what a record is, ``shard_writing`` what the manifest has;
``pack`` makes such folders of sets that do not fit in memory.
"""

import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from dinov3_jax.data.record import Record, SourceError
from dinov3_jax.data.shard_writing import (
    VERSION,
    crc32,
    shard_name,
    write_manifest,
    write_shard_file,
)
from dinov3_jax.data.stored import COLUMNS, Recode, store

_OPEN_SHARDS = 256  # each holds a file descriptor and its index in memory


@dataclasses.dataclass(frozen=True, eq=False)
class ShardSource:
    """Records in manifest order; a read costs the same wherever the record lies."""

    files: tuple[str, ...]
    ends: tuple[int, ...]  # records up to and including each file
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    fingerprint: str

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self.ends[-1]:
            raise IndexError(f"record {index}, wanted 0..{len(self) - 1}")
        shard = bisect.bisect_right(self.ends, index)
        start = self.ends[shard - 1] if shard else 0
        reader = _reader(self.files[shard], self.ends[shard] - start)
        position = index - start
        # Of the reader's calls only read(from, to) costs the same in shards of any length.
        fields = msgpack.unpackb(reader.read(position, position + 1)[0])
        return Record(fields["img"], fields["s"], fields["y"])


def open_shards(path: str) -> ShardSource:
    """Source of a folder written by ``write_shards``; every shard of the manifest must be there."""
    folder = os.path.abspath(os.path.expanduser(path))
    text, manifest = read_manifest(folder)
    shards = manifest["shards"]
    for shard in shards:
        wrong = _wrong_size(os.path.join(folder, shard["name"]), shard)
        if wrong:
            raise SourceError(wrong)
    labels = np.load(os.path.join(folder, "labels.npy")) if manifest["labels"] else None
    ends = tuple(itertools.accumulate(shard["count"] for shard in shards))
    if labels is not None and len(labels) != ends[-1]:
        raise SourceError(
            f"{folder}/labels.npy has {len(labels)} labels, wanted {ends[-1]}; copy it again"
        )
    return ShardSource(
        files=tuple(os.path.join(folder, shard["name"]) for shard in shards),
        ends=ends,
        labels=labels,
        classes=None if manifest["classes"] is None else tuple(manifest["classes"]),
        fingerprint=hashlib.sha256(text).hexdigest(),
    )


def write_shards(
    records: Iterable[Record],
    path: str,
    *,
    shard_size: int = 8192,
    classes: tuple[str, ...] | None = None,
) -> dict:
    """Writes ``records``, in the given order, to the new folder ``path``; returns the manifest.

    Encoded images are stored as they are, pixels as PNG. The folder appears whole or not at all.
    Either all records have a label or none has.
    """
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.exists(path):
        raise FileExistsError(f"{path} is already there; give a new folder or delete it")
    if shard_size < 1:
        raise ValueError(f"shard_size is {shard_size}, wanted at least 1 record")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    work = tempfile.mkdtemp(prefix=os.path.basename(path) + ".", dir=os.path.dirname(path))
    shards, labels = [], []
    stream = (store(record, Recode()) for record in records)
    try:
        while part := list(itertools.islice(stream, 1)):  # a shard of no record is not begun
            file = os.path.join(work, shard_name(len(shards)))
            rest = itertools.islice(stream, shard_size - 1)
            entry, found = write_shard_file(itertools.chain(part, rest), file)
            shards.append(entry)
            labels += found
        manifest = write_manifest(work, shards, labels, classes=classes, packed=None)
        os.chmod(work, 0o755)  # mkdtemp makes folders private
        os.rename(work, path)
    except BaseException:
        shutil.rmtree(work)
        raise
    return manifest


def verify_shards(path: str):
    """Reads every byte of a shard folder; raises SourceError that names all damage, one a line.

    Shards are compared with the manifest. If these are whole, ``labels.npy`` and ``NNNNN.json``,
    where it is there, are compared with the records.
    """
    folder = os.path.abspath(os.path.expanduser(path))
    manifest = read_manifest(folder)[1]
    damage = [_damage(folder, shard) for shard in manifest["shards"]]
    counted = sum(shard["count"] for shard in manifest["shards"])
    if counted != manifest["total"]:
        damage.append(
            f"{folder}/manifest.json counts {counted} records in its shards, wanted the total, "
            f"{manifest['total']}; copy it again"
        )
    found = [line for line in damage if line]
    if found:
        raise SourceError("\n".join(found))
    labels, start, found = open_shards(path).labels, 0, []
    for shard in manifest["shards"]:
        stop = start + shard["count"]
        found += _wrong_beside(
            folder,
            shard,
            [None] * (stop - start) if labels is None else labels[start:stop].tolist(),
        )
        start = stop
    if found:
        raise SourceError("\n".join(found))


def _damage(folder: str, shard: dict) -> str | None:
    """What is wrong with one shard, read whole."""
    file = os.path.join(folder, shard["name"])
    wrong = _wrong_size(file, shard)
    if wrong:
        return wrong
    crc = crc32(file)
    if crc != shard["crc32"]:
        return f"{file} has crc32 {crc}, wanted {shard['crc32']} as in manifest.json; copy it again"
    try:
        _reader(file, shard["count"])
    except SourceError as error:
        return str(error)


def _wrong_beside(folder: str, shard: dict, labels: list[int | None]) -> list[str]:
    """What does not fit the records of one whole shard: its ``labels``, its ``.json``."""
    reader = _reader(os.path.join(folder, shard["name"]), shard["count"])
    rows = []
    for i in range(shard["count"]):  # one by one: the images of a shard would fill the memory
        fields = msgpack.unpackb(reader.read(i, i + 1)[0])
        row = (fields["s"], fields["y"], fields["h"], fields["w"])
        rows.append((*row, len(fields["img"]), fields["k"].hex()))
    wrong = []
    for row, label in zip(rows, labels):
        if row[1] != label:
            wrong.append(
                f"{folder}/labels.npy has {label} for {row[0]!r} in {shard['name']}, wanted "
                f"{row[1]} as in the record; copy it again"
            )
    beside = Path(folder, shard["name"]).with_suffix(".json")
    if beside.exists() and not _fits(beside, shard, rows):
        wrong.append(f"{beside} does not fit {shard['name']}; copy it again, or delete both files")
    return wrong


def _fits(beside: Path, shard: dict, rows: list[tuple]) -> bool:
    """Whether the ``.json`` beside a shard speaks of these records."""
    try:
        about = json.loads(beside.read_bytes())
        columns = [about["records"][name] for name in COLUMNS]
        return about["shard"] == shard and list(zip(*columns, strict=True)) == rows
    except (KeyError, TypeError, ValueError):
        return False


def _wrong_size(file: str, shard: dict) -> str | None:
    size = os.path.getsize(file) if os.path.exists(file) else None
    if size == shard["bytes"]:
        return None
    has = "missing" if size is None else f"{size} bytes long"
    return f"{file} is {has}, wanted {shard['bytes']} bytes as in manifest.json; copy it again"


@functools.lru_cache(_OPEN_SHARDS)
def _reader(file: str, count: int) -> ArrayRecordReader:
    """Open reader, shared by threads; dropped ones close when their last read has ended."""
    try:
        reader = ArrayRecordReader(file, "readahead_buffer_size:0")
    except RuntimeError as error:
        raise SourceError(f"{file} cannot be opened: {error}; copy it again") from error
    if reader.num_records() != count:
        raise SourceError(
            f"{file} has {reader.num_records()} records, wanted {count} as in manifest.json; "
            "copy the whole folder again"
        )
    return reader


def read_manifest(folder: str) -> tuple[bytes, dict]:
    """(``manifest.json`` as it is, what it says)."""
    file = Path(folder, "manifest.json")
    if not file.exists():
        raise SourceError(f"there is no {file}; wanted a folder made by `dinov3 shards pack`")
    text = file.read_bytes()
    manifest = json.loads(text)
    if manifest.get("version") != VERSION or not manifest.get("shards"):
        raise SourceError(
            f"{file} has version {manifest.get('version')} and "
            f"{len(manifest.get('shards') or ())} shards, wanted version {VERSION} and at least 1"
        )
    return text, manifest
