"""Linear probe: what a linear classifier reads out of frozen features.

A grid of classifiers (``probe.py``) is trained at once on CLS and mean patch token; the best cell
on the validation split is scored on the test. The defaults are the protocol of DINOv3's code. The
paper's own numbers (arXiv 2508.10104, appendix D.7) are of CLS alone at 512 pixels:

    --set=linear.pooling='(False,)' --set=linear.resize=512 --set=linear.crop=512
    --set=linear.lrs='(1e-4,2e-4,5e-4,1e-3,2e-3,5e-3,1e-2,2e-2,5e-2,.1,.2,.5,1.,2.,5.)'
    --set=linear.weight_decays='(0.,1e-5)'
"""

import dataclasses
import os
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.classification import (
    Classification,
    Split,
    open_classification,
    open_split,
    relabel,
)
from dinov3_jax.evals.classification import inputs, metrics, probe
from dinov3_jax.evals.classification.features import check_crop
from dinov3_jax.evals.classification.pictures import chart, mistakes
from dinov3_jax.evals.evaluation import Result
from dinov3_jax.models.model import Model

_CHUNK = 4096  # rows whose logits are held at once


@dataclasses.dataclass(frozen=True)
class LinearSettings:
    data: str  # see data/benchmarks/classification.py
    layers: tuple[int, ...] = (1,)  # CLS of the last so many blocks: one part of the grid each
    pooling: tuple[bool, ...] = (True,)  # whether the mean patch token is joined: likewise
    lrs: tuple[float, ...] = (
        1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1,
    )  # fmt: skip  # at 256 images a step, times batch / 256
    weight_decays: tuple[float, ...] = (0.0,)
    steps: int = 12_500
    batch: int = 1024  # images a step
    augment: bool = True  # random crops, features anew each step; False: centre crops, once
    resize: int = 256  # pixels of the short side, where no random crop is taken
    crop: int = 224  # pixels, a multiple of the model's stride
    extra: tuple[str, ...] = ()  # further test sets: folders of class folders
    seed: int = 0


class Head(NamedTuple):
    """The best classifier of the grid, and what it sees."""

    see: inputs.See
    span: tuple[int, int]
    classifier: probe.Linear
    chosen: dict[str, float]  # its layers, pooling, lr, weight_decay
    table: dict[tuple[int, bool, float], np.ndarray]  # (layers, pooling, decay) -> top-1 by lr


def evaluate(model: Model, settings: LinearSettings, mesh: Mesh) -> Result:
    """Metrics: ``top1`` and, of more than 5 classes, ``top5`` of the test split; ``val_top1`` if
    there is one; ``NAME/top1`` of each set of ``extra``; ``layers``, ``pooling``, ``lr`` and
    ``weight_decay`` of the cell that was chosen.

    Without a validation split the best cell is chosen on the test split itself, as DINOv3's code
    does on ImageNet, whose only labelled test is val/.
    """
    data = open_classification(settings.data)
    extra = _extra(settings.extra, data.classes)
    head = fit(model, settings, data, mesh)
    made = result(head, scores(head, data.test, settings, mesh), data, settings)
    for name, split in extra.items():
        found = scores(head, split, settings, mesh)
        made.metrics[f"{name}/top1"] = metrics.accuracy(found, split.labels)
    return made


def result(head: Head, found: np.ndarray, data: Classification, settings: LinearSettings) -> Result:
    """What there is to say of the test, whose logits are ``found`` [n, K], and of the choice."""
    row = {"top1": metrics.accuracy(found, data.test.labels)}
    if len(data.classes) > 5:
        row["top5"] = metrics.accuracy(found, data.test.labels, k=5)
    if data.val is not None:
        row["val_top1"] = max(float(line.max()) for line in head.table.values())
    row |= head.chosen
    split = "test: there is no val/" if data.val is None else "val"
    curves = {
        f"CLS of {n}{' + mean' * pooled}, decay {decay:g}": line
        for (n, pooled, decay), line in head.table.items()
    }
    caption = f"Top-1 by learning rate (at 256 images), on {split}"
    drawn = chart(settings.lrs, curves, caption=caption)
    wrong = mistakes(found, data.test.labels, data.classes, data.test.image)
    return Result(row, (drawn, *wrong))


def fit(model: Model, settings: LinearSettings, data: Classification, mesh: Mesh) -> Head:
    """Trains the grid on ``data.train`` and chooses on ``data.val``, or the test without one.

    The best cell has the highest top-1; the first in the order of the settings on a tie.
    """
    _check(settings)
    check_crop(model, resize=settings.resize, crop=settings.crop)
    spans = inputs.spans(model, settings.layers, settings.pooling)
    see = inputs.see(model, mesh, max(settings.layers))
    scale = settings.batch / 256
    cells = probe.grid(spans.values(), [lr * scale for lr in settings.lrs], settings.weight_decays)
    how = {"batch": settings.batch, "seed": settings.seed}
    if settings.augment:
        batches = inputs.augmented_batches(see, data.train, mesh, crop=settings.crop, **how)
    else:
        rows = _rows(see, data.train, settings, mesh)
        batches = inputs.cached_batches(rows, data.train.labels, mesh, **how)
    trained = probe.train(
        cells,
        batches,
        classes=len(data.classes),
        steps=settings.steps,
        mesh=mesh,
        seed=settings.seed,
    )
    choice = data.test if data.val is None else data.val
    rows, hits = _rows(see, choice, settings, mesh), np.zeros(len(cells))
    for start in range(0, len(rows), _CHUNK):
        chunk, labels = rows[start : start + _CHUNK], choice.labels[start : start + _CHUNK]
        ranks = probe.cell_ranks(trained, jnp.asarray(chunk), jnp.asarray(labels))
        hits += (np.asarray(ranks) == 0).sum(axis=0)
    top1 = (100.0 * hits / len(rows)).reshape(len(spans), len(settings.lrs), -1)
    best = int(top1.argmax())
    if not np.isfinite(trained.one(best)[1].kernel).all():
        raise ConfigError(f"no classifier of the grid ended finite; lower lrs, {settings.lrs}")
    input_, lr, decay = np.unravel_index(best, top1.shape)
    (layers, pooling), span = list(spans.items())[input_]
    chosen = {
        "layers": float(layers),
        "pooling": float(pooling),
        "lr": settings.lrs[lr],
        "weight_decay": settings.weight_decays[decay],
    }
    table = {
        (*key, weight_decay): top1[i, :, j]
        for i, key in enumerate(spans)
        for j, weight_decay in enumerate(settings.weight_decays)
    }
    return Head(see, span, trained.one(best)[1], chosen, table)


def scores(head: Head, split: Split, settings: LinearSettings, mesh: Mesh) -> np.ndarray:
    """Logits float32 [n, K] of the centre crops of ``split``."""
    rows = _rows(head.see, split, settings, mesh)
    return np.concatenate(
        [
            np.asarray(probe.logits(jnp.asarray(rows[i : i + _CHUNK]), head.span, head.classifier))
            for i in range(0, len(rows), _CHUNK)
        ]
    )


def _rows(see, split, settings, mesh):
    return inputs.split_inputs(see, split, mesh, resize=settings.resize, crop=settings.crop)


def _check(settings):
    for name in ("layers", "pooling", "lrs", "weight_decays"):
        if not getattr(settings, name):
            raise ConfigError(f"{name} is empty, wanted at least one value; the grid has no cell")
    for name in ("steps", "batch"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"{name} is {getattr(settings, name)}, wanted at least 1")
    if min(settings.layers) < 1:
        raise ConfigError(f"layers are {settings.layers}, wanted numbers from 1: the last so many")


def _extra(paths, classes):
    """Name of the folder -> its split."""
    splits = {}
    for path in paths:
        name = os.path.basename(os.path.abspath(path))
        if name in splits:
            raise ConfigError(f"extra has two sets named {name!r}; rename one of the folders")
        splits[name] = relabel(*open_split(path), classes, path)
    return splits
