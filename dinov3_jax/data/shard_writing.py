"""Writing shards: an ArrayRecord file, and the manifest of a folder of them.

Records are stored one by one and uncompressed: encoded images do not compress, and any grouping
makes random access read the whole group.
"""

import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from dinov3_jax.data.stored import FIELDS, Stored

VERSION = 1
_WRITER_OPTIONS = "group_size:1,uncompressed"


def shard_name(number: int) -> str:
    return f"{number:05d}.array_record"


def write_shard_file(records: Iterable[Stored], file: str) -> tuple[dict, list[int | None]]:
    """Writes ``file`` whole or not at all; (its entry in the manifest, the labels).

    The entry has ``name``, ``count`` records, ``bytes``, ``crc32``, and ``images``: sums over the
    images from which ``statistics`` makes means.
    """
    labels, rows, channels = [], [], np.zeros((2, 3))
    with whole_file(file) as draft:
        writer = ArrayRecordWriter(draft, _WRITER_OPTIONS)
        try:
            for stored in records:
                writer.write(stored.data)
                labels.append(stored.label)
                rows.append((stored.height, stored.width, stored.bytes))
                channels += stored.mean, stored.square
        finally:
            writer.close()
        entry = {
            "name": os.path.basename(file),
            "count": len(labels),
            "bytes": os.path.getsize(draft),
            "crc32": crc32(draft),
            "images": _sums(rows, channels),
        }
    return entry, labels


def write_manifest(
    folder: str,
    shards: list[dict],
    labels: list[int | None],
    *,
    classes: tuple[str, ...] | None,
    packed: dict | None,
) -> dict:
    """Writes ``labels.npy``, where there are labels, and then ``manifest.json``; returns that.

    packed: how ``dinov3 shards pack`` made the folder. Either all records have a label or none has.
    """
    if not labels:
        raise ValueError("there are no records to write")
    labelled = [label is not None for label in labels]
    if any(labelled) != all(labelled):
        raise ValueError(
            f"{sum(labelled)} of {len(labels)} records have a label, wanted all or none"
        )
    if labelled[0]:
        with whole_file(os.path.join(folder, "labels.npy")) as draft, open(draft, "wb") as stream:
            np.save(stream, np.array(labels, np.int32))
    manifest = {
        "version": VERSION,
        "container": f"array_record {_WRITER_OPTIONS}",
        "record": FIELDS,
        "total": len(labels),
        "labels": labelled[0],
        "classes": None if classes is None else list(classes),
        "images": statistics(shards),
        "packed": packed,
        "shards": shards,
    }
    with whole_file(os.path.join(folder, "manifest.json")) as draft:
        Path(draft).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


@contextlib.contextmanager
def whole_file(file: str):
    """Context of a draft's path that becomes ``file`` if all goes well and vanishes if not.

    Two writers of the same file do not meet; a kill leaves the draft, ``.*.draft``.
    """
    descriptor, draft = tempfile.mkstemp(
        prefix=f".{os.path.basename(file)}.", suffix=".draft", dir=os.path.dirname(file)
    )
    os.close(descriptor)
    try:
        yield draft
        os.chmod(draft, 0o644)  # mkstemp makes files private
        os.replace(draft, file)
    except BaseException:
        os.unlink(draft)
        raise


def statistics(shards: list[dict]) -> dict:
    """Of all images in the shards of a manifest, each counted alike whatever its size.

    ``height``, ``width`` (pixels) and ``bytes`` have ``min``, ``mean`` and ``max``; ``mean`` and
    ``std`` are those of R, G, B in 0..1, as ``crops.mean`` and ``crops.std`` want them.
    """
    full = [shard for shard in shards if shard["count"]]
    total = sum(shard["count"] for shard in full)
    images = [shard["images"] for shard in full]
    found = {}
    for name in ("height", "width", "bytes"):
        found[name] = {
            "min": min(image[name]["min"] for image in images),
            "mean": round(sum(image[name]["sum"] for image in images) / total, 2),
            "max": max(image[name]["max"] for image in images),
        }
    mean, square = (
        np.sum([image[name] for image in images], axis=0) / total for name in ("mean", "square")
    )
    found["mean"] = mean.round(4).tolist()
    found["std"] = np.sqrt((square - mean**2).clip(0)).round(4).tolist()
    return found


def crc32(file: str) -> int:
    crc = 0
    with open(file, "rb") as stream:
        while block := stream.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc


def _sums(rows: list[tuple[int, int, int]], channels: np.ndarray) -> dict:
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    sums = {
        name: {"min": int(x.min()), "sum": int(x.sum()), "max": int(x.max())}
        for name, x in zip(("height", "width", "bytes"), columns)
        if x.size
    }
    return {**sums, "mean": channels[0].tolist(), "square": channels[1].tolist()}
