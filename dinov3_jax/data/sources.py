"""Data sets: ``open_source`` opens the kind a recipe asks for; what comes out is a ``Source``."""

import glob
import os

from dinov3_jax.config import ConfigError, DataConfig
from dinov3_jax.data import fashion_mnist, folder, shards, tfds
from dinov3_jax.data.record import Record, Source, SourceError

__all__ = ["Record", "Source", "SourceError", "open_images", "open_source"]


def open_source(data: DataConfig) -> Source:
    """Opens ``data.path`` as ``data.source`` says: folder, shards, tfds or fashion_mnist."""
    if data.labels not in ("none", "folders"):
        raise ConfigError(f"data.labels is {data.labels!r}, wanted 'none' or 'folders'")
    match data.source:
        case "folder":
            return folder.open_folders(data.path, labelled=data.labels == "folders")
        case "shards":
            return shards.open_shards(data.path)
        case "tfds":
            return tfds.open_tfds(data.path)
        case "fashion_mnist":
            return fashion_mnist.open_fashion_mnist(data.path)
    raise ConfigError(
        f"data.source is {data.source!r}, wanted 'folder', 'shards', 'tfds' or 'fashion_mnist'"
    )


def open_images(path: str) -> Source:
    """Unlabelled images by path alone: a folder, a folder of shards, one file or a glob."""
    place = os.path.expanduser(path)
    if os.path.exists(os.path.join(place, "manifest.json")):
        return shards.open_shards(place)
    if os.path.isfile(place) or (glob.has_magic(place) and not os.path.isdir(place)):
        return folder.open_files(path)
    return folder.open_folders(path, labelled=False)
