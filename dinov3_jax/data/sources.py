"""Data sets: ``open_source`` opens the kind a recipe asks for; what comes out is a ``Source``."""

import functools
import glob
import os

from dinov3_jax.config import ConfigError, DataConfig
from dinov3_jax.data import (
    curated,
    fashion_mnist,
    folder,
    manifest,
    mixture,
    parquet,
    shards,
    tar,
    tfds,
)
from dinov3_jax.data.record import Record, Source, SourceError

__all__ = ["KINDS", "Record", "Source", "SourceError", "open_images", "open_kind", "open_source"]


KINDS = ("folder", "shards", "tar", "parquet", "manifest", "curated", "tfds", "fashion_mnist")


def open_source(data: DataConfig) -> Source:
    """The data set of a recipe: ``data.path`` or, all its parts as one, ``data.mixture``."""
    if data.mixture is None:
        return open_kind(data.source, data.path, labels=data.labels)
    parts = {name: open_kind(kind, path, labels="none") for name, kind, path, _ in data.mixture}
    return mixture.join(parts)


def open_kind(kind: str, path: str, *, labels: str) -> Source:
    """Opens ``path`` as one of ``KINDS``; labels: of a folder, "none" or "folders".

    A curated source opens its pool with these labels.
    """
    if labels not in ("none", "folders"):
        raise ConfigError(f"data.labels is {labels!r}, wanted 'none' or 'folders'")
    match kind:
        case "folder":
            return folder.open_folders(path, labelled=labels == "folders")
        case "shards":
            return shards.open_shards(path)
        case "tar":
            return tar.open_tars(path)
        case "parquet":
            return parquet.open_parquet(path)
        case "manifest":
            return manifest.open_manifest(path)
        case "curated":
            return curated.open_curated(path, functools.partial(open_kind, labels=labels))
        case "tfds":
            return tfds.open_tfds(path)
        case "fashion_mnist":
            return fashion_mnist.open_fashion_mnist(path)
    raise ConfigError(f"data.source is {kind!r}, wanted {', '.join(map(repr, KINDS))}")


def open_images(path: str) -> Source:
    """Unlabelled images by path alone: a folder, a folder of shards, one file or a glob."""
    place = os.path.expanduser(path)
    if os.path.exists(os.path.join(place, "manifest.json")):
        return shards.open_shards(place)
    if os.path.isfile(place) or (glob.has_magic(place) and not os.path.isdir(place)):
        return folder.open_files(path)
    return folder.open_folders(path, labelled=False)
