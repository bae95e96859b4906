"""A pool as bad as one from the web, made of labelled images: `make curate` begins with it.

    python -m benchmarks.unbalanced --data=FOLDER --held-out=FOLDER --out=DIR

Writes three folders of shards:

    pool     of --data, classes after Zipf's law; and copies of some of its images and of held-out
             ones, cropped a little, brighter and compressed anew, their ids ending in #copy, #leak
    seeds    held-out images of the rarest classes of the pool
    against  the other held-out images
"""

import argparse
import os

import cv2
import numpy as np
import simplejpeg

from dinov3_jax.data.decode import decode
from dinov3_jax.data.record import Record, Source
from dinov3_jax.data.shards import write_shards
from dinov3_jax.data.sources import KINDS, open_kind


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="PATH")
    parser.add_argument("--held-out", required=True, metavar="PATH")
    parser.add_argument("--source", default="folder", choices=KINDS, help="kind of both")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--largest", type=int, default=800, help="images of the first class")
    parser.add_argument("--exponent", type=float, default=1.5, help="of Zipf's law")
    parser.add_argument("--copies", type=int, default=200, help="of images of the pool")
    parser.add_argument("--leaks", type=int, default=20, help="copies of held-out images")
    parser.add_argument("--rare", type=int, default=2, help="classes of the seeds")
    parser.add_argument("--seeds", type=int, default=40, help="images at most")
    arguments = parser.parse_args()
    data = open_kind(arguments.source, arguments.data, labels="folders")
    held_out = open_kind(arguments.source, arguments.held_out, labels="folders")
    names = data.classes
    # Two folders need not have all classes alike: number those of the second as the first does.
    numbers = np.array([names.index(name) for name in held_out.classes])
    held_out_labels = numbers[held_out.labels]
    rng = np.random.default_rng(0)
    rows, classes = zipf_rows(data.labels, arguments.largest, arguments.exponent, rng)
    rare = np.isin(held_out_labels, classes[-arguments.rare :])
    seeds = rng.permutation(np.flatnonzero(rare))[: arguments.seeds]
    against = rng.permutation(np.setdiff1d(np.arange(len(held_out)), seeds))[:1000]
    copies = rng.choice(rows, arguments.copies, replace=False)
    leaks = rng.choice(against, arguments.leaks, replace=False)
    ours, theirs = (data, data.labels), (held_out, held_out_labels)
    pool = [(*ours, row, "") for row in rows]
    pool += [(*ours, row, "#copy") for row in copies]
    pool += [(*theirs, row, "#leak") for row in leaks]
    order = rng.permutation(len(pool))
    for name, chosen in (
        ("pool", [pool[i] for i in order]),
        ("seeds", [(*theirs, row, "") for row in seeds]),
        ("against", [(*theirs, row, "") for row in against]),
    ):
        records = (_record(*one) for one in chosen)
        folder = os.path.join(arguments.out, name)
        manifest = write_shards(records, folder, shard_size=1024, classes=names)
        print(f"{folder}: {manifest['total']} images")


def zipf_rows(
    labels: np.ndarray, largest: int, exponent: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(rows [n], classes by falling number of images): class r = 1, 2, .. has largest / r^exponent.

    The class with most images becomes the first; one that has fewer than the law says keeps all.
    """
    counts = np.bincount(labels)
    classes = np.argsort(-counts, kind="stable")
    rows = []
    for rank, label in enumerate(classes, 1):
        wanted = min(round(largest / rank**exponent), counts[label])
        rows.append(rng.permutation(np.flatnonzero(labels == label))[:wanted])
    return np.concatenate(rows), classes


def near_copy(image: bytes | np.ndarray) -> bytes:
    """What a reposted image goes through: 1 % off each edge, a little brighter, JPEG quality 70."""
    pixels = decode(image)
    height, width = pixels.shape[:2]
    y, x = round(0.01 * height), round(0.01 * width)
    cut = pixels[y : height - y, x : width - x]
    if y and x:
        cut = cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR)
    bright = np.clip(cut.astype(np.float32) * 1.03, 0, 255).astype(np.uint8)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(bright), quality=70)


def _record(source: Source, labels: np.ndarray, row: int, mark: str) -> Record:
    record = source[int(row)]
    image = near_copy(record.image) if mark else record.image
    return Record(image, record.id + mark, int(labels[row]))


if __name__ == "__main__":
    main()
