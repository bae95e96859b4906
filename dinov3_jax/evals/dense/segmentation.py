"""Linear semantic segmentation: what class each patch is, from frozen tokens.

Batch norm and one matrix on the last layer's patch tokens, trained on random crops; a label map is
the argmax of logits averaged over sliding windows. Source: DINOv3 (arXiv 2508.10104), appendix D.1,
and its reference configuration, which the defaults follow: one learning rate and weight decay. The
paper's scores are the best of lr (1e-4, 3e-4, 1e-3) x weight_decay (1e-4, 1e-3) on the validation
images.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.resize_short import resize_image
from dinov3_jax.data.benchmarks.segmentation import SegmentationSet, open_segmentation
from dinov3_jax.data.benchmarks.segmentation_augment import training_crop
from dinov3_jax.data.in_order import in_order
from dinov3_jax.data.order import record_index, rng
from dinov3_jax.data.sources import SourceError
from dinov3_jax.distributed.agree import fetch
from dinov3_jax.evals.dense import miou, pictures, schedules, sliding
from dinov3_jax.evals.dense.bilinear import bilinear
from dinov3_jax.evals.dense.label_map import label_map
from dinov3_jax.evals.dense.probe import (
    Probe,
    Recipe,
    check_recipe,
    predict,
    repeat,
    train_probe,
)
from dinov3_jax.evals.dense.tokens import Tokens, frozen_tokens, mean_colour, spread
from dinov3_jax.evals.evaluation import Picture, Result
from dinov3_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class SegmentationSettings:
    data: str  # a folder in one of the layouts of data/benchmarks/segmentation.py
    lr: tuple[float, ...] = (1e-3,)  # peaks; each is tried with each weight decay
    weight_decay: tuple[float, ...] = (1e-3,)
    steps: int = 40_000  # of AdamW, betas 0.9 and 0.999, no clipping
    warmup: int = 1_500  # steps
    batch: int = 16  # crops a step
    size: int = 512  # pixels: sides of crops and windows, short side of validation images
    stride: int = 341  # pixels between windows
    scale: tuple[float, float] = (0.5, 2.0)  # short side of training images, in ``size``
    largest_class: float = 0.75  # part of a crop's labelled pixels
    dropout: float = 0.1  # of channels of the tokens
    count_ignored: bool = True  # pixels without a class count as 0 in the mean of the loss
    cached: int | None = None  # batches of crops kept and repeated; None: new ones every step
    seed: int = 0


def evaluate(model: Model, settings: SegmentationSettings, mesh: Mesh) -> Result:
    """``miou`` of the validation images, other ``miou.scores``, ``iou/CLASS`` of the classes that
    occur, in percent; of several candidates those of the best, and ``miou/lr=.../wd=...`` of each.
    """
    recipe = _recipe(settings)
    _check(settings, recipe, model)
    train, test = open_segmentation(settings.data)
    _check_truth(test, settings)
    tokens = frozen_tokens(model, mesh)
    loss = functools.partial(cross_entropy, count_ignored=settings.count_ignored)
    crops = repeat(_crops(train, tokens, settings, model, mesh), settings.cached)
    probe = train_probe(crops, loss, recipe, outputs=len(train.classes), mesh=mesh)
    maps = functools.partial(_label_maps, test, tokens=tokens, probe=probe, settings=settings)
    totals, own = 0, {}
    for i, _, labels, candidates in maps(range(len(test))):
        counts = [miou.confusion(labels, called, len(test.classes)) for called in candidates]
        totals = totals + np.stack(counts)
        if counts[0].any():
            own[i] = [miou.scores(each)["miou"] for each in counts]
    metrics, best = _metrics(totals, recipe, test.classes)
    own = {i: each[best] for i, each in own.items()}
    drawn = [
        Picture(
            f"Image, true and predicted classes: mIoU {own[i]:.1f} in this image",
            pictures.class_row(image, labels, candidates[best]),
        )
        for i, image, labels, candidates in maps(pictures.extremes(own))
    ]
    return Result(metrics, tuple(drawn))


def cross_entropy(
    logits: jax.Array, labels: jax.Array, step: jax.Array, *, count_ignored: bool
) -> jax.Array:
    """Mean over pixels of -log softmax at the label, with logits [n, h, w, C] interpolated to the
    size of ``labels`` [n, H, W]. Pixels of label 255 give 0; with ``count_ignored`` they stay in
    the mean's denominator. ``step`` is not used."""
    rows, columns = (bilinear(*sides) for sides in zip(logits.shape[1:3], labels.shape[1:]))
    logits = jnp.einsum("ya,xb,nabc->nyxc", rows, columns, logits, precision="highest")
    labelled = labels != miou.IGNORED
    # A sum, not a gather, whose backward pass would be a scatter of every pixel.
    at_label = jnp.where(labels[..., None] == jnp.arange(logits.shape[-1]), logits, 0.0).sum(-1)
    entropy = jnp.where(labelled, jax.nn.logsumexp(logits, axis=-1) - at_label, 0.0)
    return entropy.sum() / (labels.size if count_ignored else jnp.maximum(labelled.sum(), 1))


def _recipe(settings):
    return Recipe(
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        steps=settings.steps,
        schedule=functools.partial(
            schedules.segmentation, steps=settings.steps, warmup=settings.warmup
        ),
        beta1=lambda step: 0.9,
        beta2=0.999,
        clip=None,
        dropout=settings.dropout,
        seed=settings.seed,
    )


def _check(settings, recipe, model):
    check_recipe(recipe, warmup=settings.warmup)
    size, patch = settings.size, model.stride
    if size < patch or size % patch:
        down = max(size // patch, 1) * patch
        raise ConfigError(
            f"size is {size} pixels, wanted whole patches of {patch}: {down} or {down + patch}"
        )
    if not 1 <= settings.stride <= size:
        raise ConfigError(f"stride is {settings.stride}, wanted 1 to {size}, the size of a window")
    if settings.batch < 1 or not (settings.cached is None or settings.cached >= 1):
        raise ConfigError(
            f"batch is {settings.batch}, cached {settings.cached}; wanted at least 1 of each "
            "(cached: or None)"
        )
    low, high = settings.scale
    if not 1 <= int(size * low) <= int(size * high):
        raise ConfigError(f"scale is {settings.scale}, wanted (smallest, largest), both positive")
    if not 0 <= settings.dropout < 1:
        raise ConfigError(f"dropout is {settings.dropout}, wanted 0 to below 1")


def _check_truth(test, settings):
    """Reads all that will be scored: what is wrong there is said before the training."""
    pairs = in_order(test.__getitem__, range(len(test)), ahead=2 * settings.batch)
    # All of them are read, not those up to the first with a class.
    if not sum(bool((labels != miou.IGNORED).any()) for _, labels in pairs):
        raise SourceError("no pixel of the validation images has a class: all labels are 255")


def _crops(
    train: SegmentationSet, tokens: Tokens, settings: SegmentationSettings, model: Model, mesh: Mesh
):
    """Batches without end: (tokens [batch, h, w, D], labels uint8 [batch, size, size])."""

    def crop(g):
        image, labels = train[int(record_index(g, size=len(train), seed=settings.seed))]
        return training_crop(
            image,
            labels,
            rng(settings.seed, "segmentation", g),
            size=settings.size,
            scale=settings.scale,
            largest_class=settings.largest_class,
            fill=mean_colour(model),
        )

    made = in_order(crop, itertools.count(), ahead=2 * settings.batch)
    while True:
        images, labels = map(np.stack, zip(*itertools.islice(made, settings.batch)))
        yield tokens(images), jax.device_put(labels, spread(len(labels), mesh))


def _label_maps(
    test: SegmentationSet, indices, *, tokens: Tokens, probe: Probe, settings: SegmentationSettings
):
    """(index, image, labels, one label map for each candidate) of the images ``indices``."""
    batch, size, stride = settings.batch, settings.size, settings.stride

    def load(i):
        image, labels = test[i]
        resized = resize_image(image, size)
        return i, image, labels, resized.shape[:2], sliding.windows(resized, size, stride)

    loaded = in_order(load, indices, ahead=2 * batch)
    while group := list(itertools.islice(loaded, batch)):
        windows = np.concatenate([found.reshape(-1, size, size, 3) for *_, found in group])
        parts = []
        for first in range(0, len(windows), batch):
            part = windows[first : first + batch]
            padded = np.zeros((batch, *part.shape[1:]), np.uint8)
            padded[: len(part)] = part
            parts.append(fetch(predict(probe, tokens(padded)))[:, : len(part)])
        logits = np.concatenate(parts, axis=1)  # [candidates, windows of the group, h, w, C]
        for i, image, labels, shape, found in group:
            own, logits = np.split(logits, [found.shape[0] * found.shape[1]], axis=1)
            own = own.reshape(len(own), *found.shape[:2], *own.shape[2:])
            where = [
                sliding.axis(a, b, window=size, stride=stride, cells=cells)
                for a, b, cells in zip(shape, labels.shape, own.shape[3:5])
            ]
            yield i, image, labels, [label_map(candidate, *where) for candidate in own]


def _metrics(totals, recipe, classes):
    """(metrics, the best candidate) of confusion matrices [candidates, C, C] of all images."""
    sweep = [miou.scores(total) for total in totals]
    best = int(np.argmax([scores["miou"] for scores in sweep]))
    metrics = dict(sweep[best])
    if len(sweep) > 1:
        for (lr, decay), scores in zip(recipe.candidates, sweep, strict=True):
            metrics[f"miou/lr={lr:g}/wd={decay:g}"] = scores["miou"]
    for name, value in zip(classes, miou.iou(totals[best]), strict=True):
        if np.isfinite(value):  # the class occurs
            metrics[f"iou/{name}"] = float(value)
    return metrics, best
