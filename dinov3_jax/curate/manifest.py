"""What was chosen, and why: a line an image; and the images themselves as shards."""

import json
from pathlib import Path

import numpy as np

from dinov3_jax.curate.embeddings import Embedded
from dinov3_jax.curate.recipe import PackConfig
from dinov3_jax.data import pack
from dinov3_jax.data.sources import Source
from dinov3_jax.data.subset import subset
from dinov3_jax.features.formats import write_whole


def write_manifest(
    path: Path, pool: Embedded, origin: str, chosen: dict[str, np.ndarray]
) -> np.ndarray:
    """Writes JSON lines, ascending in ``record``; returns the rows of the pool, int64 [m].

    {"id": "a.jpg", "source": "folder photos", "record": 7, "part": 0, "why": ["balanced"]}

    ``source`` is ``origin``, kind and path of the pool; ``record`` the image's number in it;
    ``part`` the part file of its embedding; ``why`` those names of ``chosen`` (name -> ascending
    rows) that hold it.
    """
    rows = np.unique(np.concatenate(list(chosen.values())))
    held = {name: np.isin(rows, found) for name, found in chosen.items()}

    def write(draft):
        with open(draft, "w", encoding="utf-8", errors="surrogateescape") as file:
            for i, row in enumerate(rows.tolist()):
                line = {
                    "id": pool.ids[row],
                    "source": origin,
                    "record": int(pool.records[row]),
                    "part": int(pool.parts[row]),
                    "why": [name for name, here in held.items() if here[i]],
                }
                file.write(json.dumps(line) + "\n")

    write_whole(path, write)
    return rows


def write_shards(
    folder: Path, source: Source, kind: str, labels: str, records: np.ndarray, settings: PackConfig
) -> dict:
    """The records of ``source`` as shards (``data.pack``), shuffled; returns their manifest.

    Shards that are there stay. Errors as ``data.pack``.
    """
    chosen = subset(source, records)
    packed = pack.Settings(
        source=kind,
        labels=labels,
        listing=chosen.fingerprint,
        images=len(chosen),
        shard_size=settings.shard_size,
        seed=0,
        longest=settings.longest,
        quality=settings.quality,
    )
    for number in pack.begin(packed, str(folder)):
        pack.write_shard(chosen, packed, number, str(folder))
    return pack.finish(packed, chosen.classes, str(folder))
