"""Packing and reading shards: images per CPU-second.

    python -m benchmarks.shards --data=FOLDER

Packs the folder in this process, by the function that Beam runs, and reads the shards in random
order from a warm cache, each record let go before the next one; the same images again filled up
with zeros to the sizes of larger ones. "bytes" are what the container's reader hands out, one
record at a time; "raw records" are these as maps. ``ArrayRecordDataSource`` is the random access
that comes with the container. The ways of reading take turns, and the median round counts.
"""

import argparse
import os
import statistics
import tempfile
import time

import msgpack
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader

from dinov3_jax.data import pack
from dinov3_jax.data.shards import open_shards, write_shards
from dinov3_jax.data.sources import open_kind

LARGER = (27, 75)  # kB: JPEGs of 256 and 512 pixels on the short side


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=7, help="turns of every row")
    arguments = parser.parse_args()
    source = open_kind("folder", arguments.data, labels="none")
    settings = pack.Settings("folder", "none", source.fingerprint, len(source), 1024, 0, None, None)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        for number in pack.begin(settings, folder):
            pack.write_shard(source, settings, number, folder)
        manifest = pack.finish(settings, None, folder)
        seconds = time.process_time() - start
        kilobytes = manifest["images"]["bytes"]["mean"] / 1e3
        print(f"{manifest['total']} images")
        print(f"{'pack':40}{manifest['total'] / seconds:12.0f} images/CPU-s, {seconds:.1f} CPU-s")
        show(kilobytes, read_rates(folder, arguments.rounds))
        records = [source[i] for i in range(len(source))]
        for size in LARGER:
            filled = (r._replace(image=r.image.ljust(size * 1000, b"\0")) for r in records)
            larger = os.path.join(folder, f"{size}")
            write_shards(filled, larger, shard_size=1024)
            show(size, read_rates(larger, arguments.rounds))


def show(kilobytes: float, rates: dict[str, float]):
    print(f"\n| {kilobytes:.0f} KB | records/CPU-s | of bytes | of raw records |")
    print("|---|---|---|---|")
    for name, rate in rates.items():
        ratios = (rate / rates[base] for base in ("bytes", "raw records"))
        print(f"| {name} | {rate:,.0f} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |")


def read_rates(folder: str, rounds: int) -> dict[str, float]:
    source = open_shards(folder)
    order = np.random.default_rng(0).permutation(len(source))
    shard = np.searchsorted(source.ends, order, side="right")
    position = order - np.array([0, *source.ends])[shard]
    readers = [ArrayRecordReader(file, "readahead_buffer_size:0") for file in source.files]
    places = [(readers[s], p) for s, p in zip(shard, position.tolist())]
    files = [os.path.join(folder, f"{i}.raw") for i in range(len(source))]
    for i, file in enumerate(files):
        with open(file, "wb") as stream:
            stream.write(source[i].image)

    def read_file(i):
        with open(files[i], "rb") as stream:
            return stream.read()

    rows = {
        "bytes": (lambda place: place[0].read(place[1], place[1] + 1)[0], places),
        "raw records": (
            lambda place: msgpack.unpackb(place[0].read(place[1], place[1] + 1)[0]),
            places,
        ),
        "ShardSource": (source.__getitem__, order.tolist()),
        "ArrayRecordDataSource": (ArrayRecordDataSource(source.files).__getitem__, order.tolist()),
        "a folder of files": (read_file, order.tolist()),
    }
    seconds = {name: [] for name in rows}
    for turn in range(rounds + 1):
        for name, (read, places) in rows.items():
            start = time.process_time()
            for place in places:
                read(place)
            if turn:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    return {name: len(source) / statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
