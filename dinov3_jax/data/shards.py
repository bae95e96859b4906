"""Shards: ArrayRecord files with a manifest, for sets too large for a folder of files.

A folder holds ``00000.array_record`` .., ``manifest.json`` and, where classes are known,
``labels.npy``. Each record is a msgpack map: ``k`` 16-byte blake2b of the image bytes, ``h`` and
``w`` pixels as stored, ``img`` encoded bytes, ``s`` id, ``y`` label or nil.

Records are stored one by one and uncompressed: encoded images do not compress, and any grouping
makes random access read the whole group.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

from dinov3_jax.data.record import Record, SourceError

_VERSION = 1
_WRITER_OPTIONS = "group_size:1,uncompressed"
_OPEN_SHARDS = 256  # each holds a file descriptor and its index in memory


@dataclasses.dataclass(frozen=True, eq=False)
class ShardSource:
    """Records in manifest order; a read costs the same wherever the record lies."""

    folder: str
    names: tuple[str, ...]
    ends: np.ndarray  # int64 [shards], records up to and including each shard
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    fingerprint: str

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index}, wanted 0..{len(self) - 1}")
        shard = int(np.searchsorted(self.ends, index, side="right"))
        start = int(self.ends[shard - 1]) if shard else 0
        count = int(self.ends[shard]) - start
        reader = _reader(os.path.join(self.folder, self.names[shard]), count)
        position = index - start
        # Of the reader's calls only read(from, to) costs the same in shards of any length.
        fields = msgpack.unpackb(reader.read(position, position + 1)[0])
        return Record(fields["img"], fields["s"], fields["y"])


def open_shards(path: str) -> ShardSource:
    """Source of a folder written by ``write_shards``; every shard of the manifest must be there."""
    folder = os.path.abspath(os.path.expanduser(path))
    text, manifest = _read_manifest(folder)
    shards = manifest["shards"]
    for shard in shards:
        file = os.path.join(folder, shard["name"])
        size = os.path.getsize(file) if os.path.exists(file) else None
        if size != shard["bytes"]:
            has = "missing" if size is None else f"{size} bytes long"
            raise SourceError(
                f"{file} is {has}, wanted {shard['bytes']} bytes as in manifest.json; copy it again"
            )
    labels = np.load(os.path.join(folder, "labels.npy")) if manifest["labels"] else None
    ends = np.cumsum([shard["count"] for shard in shards], dtype=np.int64)
    if labels is not None and len(labels) != ends[-1]:
        raise SourceError(
            f"{folder}/labels.npy has {len(labels)} labels, wanted {ends[-1]}; copy it again"
        )
    return ShardSource(
        folder=folder,
        names=tuple(shard["name"] for shard in shards),
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
    try:
        manifest = _write_folder(records, work, shard_size, classes)
        os.chmod(work, 0o755)  # mkdtemp makes folders private
        os.rename(work, path)
    except BaseException:
        shutil.rmtree(work)
        raise
    return manifest


def verify_shards(path: str):
    """Reads every byte of a shard folder and raises SourceError at the first damage."""
    source = open_shards(path)
    _, manifest = _read_manifest(source.folder)
    for shard in manifest["shards"]:
        file = os.path.join(source.folder, shard["name"])
        crc = _crc32(file)
        if crc != shard["crc32"]:
            raise SourceError(
                f"{file} has crc32 {crc}, wanted {shard['crc32']} as in manifest.json; "
                "copy it again"
            )
        _reader(file, shard["count"])


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


def _read_manifest(folder: str) -> tuple[bytes, dict]:
    file = Path(folder, "manifest.json")
    if not file.exists():
        raise SourceError(f"there is no {file}; data.path must be a folder made by write_shards")
    text = file.read_bytes()
    manifest = json.loads(text)
    if manifest.get("version") != _VERSION or not manifest.get("shards"):
        raise SourceError(
            f"{file} has version {manifest.get('version')} and "
            f"{len(manifest.get('shards') or ())} shards, wanted version {_VERSION} and at least 1"
        )
    return text, manifest


def _write_folder(records, folder: str, shard_size: int, classes) -> dict:
    shards, labels = [], []
    writer: Any = None
    for number, record in enumerate(records):
        if number % shard_size == 0:
            _close(writer, folder, shards)
            shards.append({"name": f"{len(shards):05d}.array_record", "count": 0})
            writer = ArrayRecordWriter(os.path.join(folder, shards[-1]["name"]), _WRITER_OPTIONS)
        writer.write(_pack(record))
        shards[-1]["count"] += 1
        labels.append(record.label)
    _close(writer, folder, shards)
    if not shards:
        raise ValueError("there are no records to write")
    labelled = [label is not None for label in labels]
    if any(labelled) != all(labelled):
        raise ValueError(
            f"{sum(labelled)} of {len(labels)} records have a label, wanted all or none"
        )
    if labelled[0]:
        np.save(os.path.join(folder, "labels.npy"), np.array(labels, np.int32))
    manifest = {
        "version": _VERSION,
        "container": f"array_record {_WRITER_OPTIONS}",
        "record": {"k": "blake2b-128", "h": "px", "w": "px", "img": "bytes", "s": "id", "y": "int"},
        "total": len(labels),
        "labels": labelled[0],
        "classes": None if classes is None else list(classes),
        "shards": shards,
    }
    Path(folder, "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _close(writer: ArrayRecordWriter | None, folder: str, shards: list[dict]):
    """Finishes the newest shard and notes its size and checksum."""
    if writer is None:
        return
    writer.close()
    file = os.path.join(folder, shards[-1]["name"])
    shards[-1] |= {"bytes": os.path.getsize(file), "crc32": _crc32(file)}


def _pack(record: Record) -> bytes:
    image = record.image
    if isinstance(image, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        image = buffer.getvalue()
    with Image.open(io.BytesIO(image)) as header:
        width, height = header.size
    fields = {
        "k": hashlib.blake2b(image, digest_size=16).digest(),
        "h": height,
        "w": width,
        "img": image,
        "s": record.id,
        "y": record.label,
    }
    return msgpack.Packer().pack(fields)


def _crc32(file: str) -> int:
    crc = 0
    with open(file, "rb") as stream:
        while block := stream.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc
