"""Features of all images of a split, centre crops of one size."""

import functools
from collections.abc import Callable

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.classification import Split
from dinov3_jax.data.centre_crop import centre_crop
from dinov3_jax.data.in_order import in_order
from dinov3_jax.features.extract import extractor, whole_batch
from dinov3_jax.models.model import Model

Reduce = Callable[[dict[str, np.ndarray]], np.ndarray]


def split_features(
    model: Model,
    mesh: Mesh,
    split: Split,
    *,
    resize: int,
    crop: int,
    batch: int = 64,
    tokens: str = "cls",
    layers: tuple[int, ...] | None = None,
    reduce: Reduce = lambda found: found["cls"],
) -> np.ndarray:
    """float32 [n, D] of the n images of ``split``, in its order.

    Images come through ``data.centre_crop`` (``resize``, ``crop``: pixels) and, ``batch`` at a
    time, through ``features.extract.extractor`` (``tokens``, ``layers``); ``reduce`` makes rows
    [b, D] of what that returns for b images, so that patch tokens of a whole split are never
    held. Raises ``ConfigError`` for a crop off the model's grid; ``SourceError`` for an image
    that cannot be read.
    """
    check_crop(model, resize=resize, crop=crop)
    extract = extractor(model, mesh, tokens=tokens, layers=layers, batch=batch)
    size = whole_batch(batch, mesh)
    load = functools.partial(_load, split, resize=resize, crop=crop)
    rows, waiting = [], []
    for image in in_order(load, range(len(split)), ahead=2 * size):
        waiting.append(image)
        if len(waiting) == size:
            rows.append(reduce(extract(np.stack(waiting))))
            waiting.clear()
    if waiting:
        rows.append(reduce(extract(np.stack(waiting))))
    return np.concatenate(rows)


def check_crop(model: Model, *, resize: int, crop: int) -> None:
    """``ConfigError`` unless ``crop`` is whole patches of ``model`` and at most ``resize``."""
    down = crop // model.stride * model.stride
    if crop != down or crop < 1:
        choice = f"{down} or " if down > 0 else ""
        raise ConfigError(
            f"crop is {crop} pixels, wanted a multiple of {model.stride}, the patch of "
            f"{model.name}; take {choice}{max(down, 0) + model.stride}"
        )
    if resize < crop:
        raise ConfigError(f"resize is {resize} pixels, below crop {crop}; wanted at least {crop}")


def _load(split, index, *, resize, crop):
    return centre_crop(split.image(index), resize=resize, crop=crop)
