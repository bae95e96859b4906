"""What was chosen, and why: a line an image; and the images themselves as shards."""

import collections
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dinov3_jax.config import ConfigError
from dinov3_jax.curate.embeddings import Embedded
from dinov3_jax.curate.recipe import PackConfig
from dinov3_jax.curate.stages import Tree
from dinov3_jax.data import pack
from dinov3_jax.data.sources import Source
from dinov3_jax.data.subset import subset
from dinov3_jax.features.formats import write_whole


def check_manifest(path: Path, pool: Embedded, chosen: dict[str, np.ndarray]) -> None:
    """``ConfigError`` if a manifest is there already that holds another choice than ``chosen``."""
    if not path.exists():
        return
    there = _choice(path)
    now = {name: pool.records[rows] for name, rows in chosen.items() if len(rows)}
    none = np.zeros(0, np.int64)
    changed = []
    for name in sorted(there.keys() | now.keys()):
        old, new = there.get(name, none), now.get(name, none)
        if not np.array_equal(old, new):
            others = ", other ones" if len(old) == len(new) else ""
            changed.append(f"{name}: {len(old)} images there, {len(new)} now{others}")
    if changed:
        raise ConfigError(
            f"{path} holds another choice ({'; '.join(changed)}); set sample.budget and --seeds "
            f"back, or delete it and {path.parent}/shards to have both made again"
        )


def _choice(path):
    """Reason -> ascending records, of a manifest."""
    found = collections.defaultdict(list)
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in map(json.loads, file):
            for name in line["why"]:
                found[name].append(line["record"])
    return found


def about_rows(
    rows: np.ndarray, chosen: dict[str, np.ndarray], kept: np.ndarray, tree: Tree
) -> Callable[[int], dict[str, list]]:
    """A function of i: ``clusters`` of the i-th of ``rows``, lowest level first, and ``why``.

    ``why`` are those names of ``chosen`` (name -> ascending rows) that hold it; ``tree`` is of the
    rows ``kept``.
    """
    place = np.searchsorted(kept, rows)
    levels = [tree.clusters(level)[place] for level in range(len(tree.parents))]
    held = {name: np.isin(rows, found) for name, found in chosen.items()}

    def about(i):
        return {
            "clusters": [int(clusters[i]) for clusters in levels],
            "why": [name for name, here in held.items() if here[i]],
        }

    return about


def write_manifest(
    path: Path, pool: Embedded, origin: str, rows: np.ndarray, about: Callable[[int], dict]
) -> None:
    """Writes JSON lines, one each of ``rows`` [m] of the pool, ascending.

    {"id": "a.jpg", "source": "folder photos", "record": 7, "part": 0, "clusters": [17, 3],
    "why": ["balanced"]}

    ``source`` is ``origin``, kind and path of the pool; ``record`` the image's number in it;
    ``part`` the part file of its embedding; the rest is that of ``about_rows``.
    """

    def write(draft):
        with open(draft, "w", encoding="utf-8", errors="surrogateescape") as file:
            for i, row in enumerate(rows.tolist()):
                line = {
                    "id": pool.ids[row],
                    "source": origin,
                    "record": int(pool.records[row]),
                    "part": int(pool.parts[row]),
                    **about(i),
                }
                file.write(json.dumps(line) + "\n")

    write_whole(path, write)


def write_shards(
    folder: Path,
    source: Source,
    kind: str,
    labels: str,
    records: np.ndarray,
    settings: PackConfig,
    about: Callable[[int], dict],
    *,
    seed: int,
) -> dict:
    """The records of ``source`` as shards (``data.pack``), shuffled by ``seed``; their manifest.

    What is known of the i-th of ``records`` (``about_rows``) stands in the ``.json`` beside them.
    Shards that are there stay. Errors as ``data.pack``.
    """
    chosen = subset(source, records)
    packed = pack.Settings(
        source=kind,
        labels=labels,
        listing=chosen.fingerprint,
        images=len(chosen),
        shard_size=settings.shard_size,
        seed=seed,
        longest=settings.longest,
        quality=settings.quality,
    )
    for number in pack.begin(packed, str(folder)):
        pack.write_shard(chosen, packed, number, str(folder), about)
    return pack.finish(packed, chosen.classes, str(folder))
