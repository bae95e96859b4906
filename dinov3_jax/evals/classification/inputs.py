"""What linear classifiers see of an image: CLS of the last blocks, then the mean patch token.

One row [F] holds them in depth order, so that "CLS of the last n blocks, with or without the mean
patch token of the last" is a span of its columns.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dinov3_jax.augment.normalize import normalize
from dinov3_jax.config import ConfigError, ConvNextConfig
from dinov3_jax.data import order
from dinov3_jax.data.benchmarks.classification import Split
from dinov3_jax.data.centre_crop import centre_crop
from dinov3_jax.data.in_order import in_order
from dinov3_jax.data.random_crop import random_crop
from dinov3_jax.distributed import sharding
from dinov3_jax.evals.classification.probe import Batch
from dinov3_jax.features.extract import check_layers, whole_batch
from dinov3_jax.models.model import Model

See = Callable[[np.ndarray | jax.Array], jax.Array]


def spans(model: Model, layers: tuple[int, ...], pooling: tuple[bool, ...]):
    """(n, pooled) -> (first column, end) of CLS of the last n blocks, joined by the mean if pooled.

    Blocks are stages of a ConvNeXt. Columns are those of ``see`` with ``max(layers)``.
    """
    config = model.config
    if isinstance(config, ConvNextConfig):
        widths = [config.stage_dims[i] for i in check_layers(model, max(layers))]
    else:
        widths = [config.embed_dim] * len(check_layers(model, max(layers)))
    total = sum(widths)
    return {
        (n, pooled): (sum(widths[: len(widths) - n]), total + widths[-1] * pooled)
        for n in layers
        for pooled in pooling
    }


def see(model: Model, mesh: Mesh, layers: int) -> See:
    """A function of uint8 [B, H, W, 3] -> float32 [B, F], on the devices of ``mesh``, B divisible.

    CLS of the last ``layers`` blocks and the mean patch token of the last, after the final norm.
    """
    wanted = check_layers(model, layers)
    specs = sharding.param_specs(model.params, mesh)
    params = jax.device_put(model.params, sharding.named(specs, mesh))

    @jax.jit
    def forward(params, images):
        images = normalize(images, mean=model.mean, std=model.std)
        found = dataclasses.replace(model, params=params).intermediate_layers(images, wanted)
        parts = [out.cls.astype(jnp.float32) for out in found]
        parts.append(found[-1].patch_tokens.astype(jnp.float32).mean(axis=1))
        return jnp.concatenate(parts, axis=1)

    def run(images):
        with jax.set_mesh(mesh):
            return forward(params, jax.device_put(images, sharding.batch_sharding(mesh)))

    return run


def split_inputs(
    see: See, split: Split, mesh: Mesh, *, resize: int, crop: int, batch: int = 64
) -> np.ndarray:
    """float32 [n, F] of the centre crops of a split, in its order.

    Raises ``ConfigError`` for features that are not finite.
    """
    size = whole_batch(batch, mesh)

    def load(index):
        return centre_crop(split.image(index), resize=resize, crop=crop)

    rows = []
    images = in_order(load, range(len(split)), ahead=2 * size)
    while chunk := list(itertools.islice(images, size)):
        rows.append(np.asarray(see(_fill(np.stack(chunk), size)))[: len(chunk)])
    found = np.concatenate(rows)
    if not np.isfinite(found).all():
        raise ConfigError(
            "features are not finite; the weights are damaged, or training diverged: take an "
            "earlier checkpoint"
        )
    return found


def cached_batches(
    features: np.ndarray, labels: np.ndarray, mesh: Mesh, *, batch: int, seed: int
) -> Iterator[Batch]:
    """Batches of rows [n, F], every row once an epoch, without end."""
    for first in itertools.count(0, batch):
        chosen = order.record_index(np.arange(first, first + batch), size=len(features), seed=seed)
        yield _place(features[chosen], labels[chosen], mesh)


def augmented_batches(
    see: See, split: Split, mesh: Mesh, *, crop: int, batch: int, seed: int
) -> Iterator[Batch]:
    """Features of random crops of images (``data.random_crop``), each image once an epoch."""
    for images, labels in random_crops(split, crop=crop, batch=batch, seed=seed):
        placed = _place(images, labels, mesh)
        yield placed._replace(features=see(placed.features))


def random_crops(
    split: Split, *, crop: int, batch: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(uint8 [batch, crop, crop, 3], int32 [batch]) without end, made ahead by threads."""

    def load(position):
        record = int(order.record_index(position, size=len(split), seed=seed))
        rng = order.rng(seed, "random_crop", position)
        return random_crop(split.image(record), rng, crop=crop), split.labels[record]

    made = in_order(load, itertools.count(), ahead=2 * batch)
    while True:
        images, labels = zip(*itertools.islice(made, batch))
        yield np.stack(images), np.array(labels, np.int32)


def _place(rows, labels, mesh):
    """Rows filled up to whole devices; the rows that fill have weight 0."""
    size = whole_batch(len(rows), mesh)
    fill = functools.partial(_fill, size=size)
    weights = np.ones(len(rows), np.float32)
    placed = (fill(rows), fill(labels.astype(np.int32)), fill(weights))
    return Batch(*jax.device_put(placed, sharding.batch_sharding(mesh)))


def _fill(rows, size):
    filled = np.zeros((size, *rows.shape[1:]), rows.dtype)
    filled[: len(rows)] = rows
    return filled
