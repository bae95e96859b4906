"""Attentive probe: a small transformer trained on frozen patch tokens, of clips or of images.

All cells of a grid of learning rates and weight decays are trained on the same tokens, and the one
that is best on held-out clips is scored on the test. The defaults are the video protocol of DINOv3
(arXiv 2508.10104, appendix D.6); where that is silent: AdamW with betas .9 and .999, a cosine to 0,
decay on matrices alone, frames evenly spaced in training too. Images are clips of one frame.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dinov3_jax.augment.normalize import normalize
from dinov3_jax.config import ConfigError
from dinov3_jax.data import order
from dinov3_jax.data.benchmarks.classification import Split, open_classification
from dinov3_jax.data.benchmarks.clips import Clips, open_clips
from dinov3_jax.data.clip_views import random_square, six_views, square
from dinov3_jax.data.in_order import in_order
from dinov3_jax.distributed import sharding
from dinov3_jax.evals.classification import attentive_head, metrics
from dinov3_jax.evals.classification.features import check_crop
from dinov3_jax.evals.classification.logistic import hold_out
from dinov3_jax.evals.classification.pictures import chart, mistakes
from dinov3_jax.evals.evaluation import Result
from dinov3_jax.features.extract import whole_batch
from dinov3_jax.models.model import Model

_ADAM = optax.scale_by_adam(0.9, 0.999, eps=1e-8)


@dataclasses.dataclass(frozen=True)
class AttentiveSettings:
    data: str  # clips: data/benchmarks/clips.py; images: data/benchmarks/classification.py
    frames: int = 16  # of a clip; 1: images
    crop: int = 256  # pixels, a multiple of the model's stride
    width: int = 1024  # of the probe
    blocks: int = 4
    heads: int = 16
    lrs: tuple[float, ...] = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3)
    weight_decays: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    epochs: int = 20
    batch: int = 64  # clips a step
    at_once: int = 18  # cells computed side by side; fewer take less memory, and more time
    augment: bool = True  # random boxes, tokens anew each step; False: centre crops, once
    scale: tuple[float, float] = (0.4, 1.0)  # area of a random box, one for all frames of a clip
    held_out: float = 0.1  # share of train that chooses the cell, where there is no val
    tta: bool = False  # test on 3 crops along the longer side x 2 interleaved sets of frames
    seed: int = 0


class _Part(NamedTuple):
    """Some clips or images of a split."""

    split: Clips | Split
    indices: np.ndarray

    @property
    def labels(self):
        return np.asarray(self.split.labels)[self.indices]

    def frames(self, i: int, count: int) -> np.ndarray:
        index = int(self.indices[i])
        if isinstance(self.split, Clips):
            return self.split.frames(index, count)
        return np.repeat(self.split.image(index)[None], count, axis=0)


def evaluate(model: Model, settings: AttentiveSettings, mesh: Mesh) -> Result:
    """Metrics: ``top1`` and, of more than 5 classes, ``top5`` of the test; ``val_top1``, ``lr``
    and ``weight_decay`` of the cell that was best on the clips held out, or on val."""
    _check(model, settings)
    opened = (open_clips if settings.frames > 1 else open_classification)(settings.data)
    if isinstance(opened.train, Clips) and opened.train.stills:
        raise ConfigError(f"all clips of {settings.data} are single images; set frames=1")
    train, choice = _parts(opened.train, opened.val, settings)
    test = _Part(opened.test, np.arange(len(opened.test)))
    see = _tokens(model, mesh)
    side = settings.crop // model.stride
    places = attentive_head.positions(settings.frames, side, side)
    params = _train(see, train, places, len(opened.classes), settings, mesh)
    found = _score(see, params, places, choice, settings)  # [cells, n, K]
    top1 = np.array([metrics.accuracy(scores, choice.labels) for scores in found])
    best = int(top1.argmax())
    if not np.isfinite(found[best]).all():
        raise ConfigError(
            "no probe of the grid ended finite: its rates are too high, or the weights of "
            f"{model.name} are damaged; lower lrs"
        )
    winner = jax.tree.map(lambda p: p[best : best + 1], params)
    scores = _score(see, winner, places, test, settings, tta=settings.tta)[0]
    lr, decay = _cells(settings)[best]
    row = {"top1": metrics.accuracy(scores, test.labels)}
    if len(opened.classes) > 5:
        row["top5"] = metrics.accuracy(scores, test.labels, k=5)
    row |= {"val_top1": float(top1[best]), "lr": lr, "weight_decay": decay}
    lines = top1.reshape(len(settings.lrs), -1).T
    curves = {f"decay {d:g}": line for d, line in zip(settings.weight_decays, lines)}
    caption = f"Top-1 by learning rate, on the {len(choice.indices)} held out to choose"
    middle = lambda i: test.frames(i, 3)[1]  # noqa: E731
    return Result(
        row,
        (
            chart(settings.lrs, curves, caption=caption),
            *mistakes(scores, test.labels, opened.classes, middle),
        ),
    )


def _check(model, settings):
    check_crop(model, resize=settings.crop, crop=settings.crop)
    attentive_head.check(settings.width, settings.heads)
    for name in ("frames", "blocks", "epochs", "batch", "at_once"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"{name} is {getattr(settings, name)}, wanted at least 1")
    if not settings.lrs or not settings.weight_decays:
        raise ConfigError("lrs or weight_decays is empty, wanted at least one value in each")


def _cells(settings):
    return list(itertools.product(settings.lrs, settings.weight_decays))


def _parts(train, val, settings):
    """What trains and what chooses: ``val``, or a share of each class of ``train``, at least one
    clip of a class that has two."""
    if val is not None:
        return _Part(train, np.arange(len(train))), _Part(val, np.arange(len(val)))
    held = hold_out(train.labels, settings.held_out, seed=settings.seed)
    if not held.any():
        raise ConfigError(
            "no class of train has two clips, so that none can be held out to choose; add val/"
        )
    return _Part(train, np.flatnonzero(~held)), _Part(train, np.flatnonzero(held))


def _tokens(model, mesh):
    """A function of uint8 [B, frames, H, W, 3] -> float32 [B, T, D], on the devices of ``mesh``."""
    specs = sharding.param_specs(model.params, mesh)
    params = jax.device_put(model.params, sharding.named(specs, mesh))

    @jax.jit
    def forward(params, clips):
        images = clips.reshape(-1, *clips.shape[2:])
        images = normalize(images, mean=model.mean, std=model.std)
        tokens = dataclasses.replace(model, params=params)(images).patch_tokens
        return tokens.astype(jnp.float32).reshape(len(clips), -1, tokens.shape[-1])

    def run(clips):
        with jax.set_mesh(mesh):
            placed = jax.device_put(_fill(clips, mesh), sharding.batch_sharding(mesh))
            return forward(params, placed)

    return run


def _train(see, train, places, classes, settings, mesh):
    """Parameters of all cells, with a leading axis."""
    cells = np.array(_cells(settings), np.float32)  # [cells, 2]
    batches = _batches(see, train, settings, mesh)
    first = next(batches)

    @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
    def start():
        params = attentive_head.init(
            jax.random.key(settings.seed),
            inputs=first[0].shape[-1],
            classes=classes,
            width=settings.width,
            blocks=settings.blocks,
        )
        state = params, _ADAM.init(params)
        # The same start for all, so that they differ by rate and decay alone.
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (len(cells), *jnp.shape(x))), state)

    steps = settings.epochs * -(-len(train.indices) // settings.batch)
    state = start()
    how = {"heads": settings.heads, "at_once": settings.at_once}
    with jax.set_mesh(mesh):
        for step, batch in enumerate(itertools.islice(itertools.chain([first], batches), steps)):
            share = np.float32(0.5 + 0.5 * np.cos(np.pi * step / steps))
            state = _step(state, batch, places, cells, share, **how)
    return state[0]


@functools.partial(jax.jit, static_argnames=("heads", "at_once"), donate_argnums=0)
def _step(state, batch, places, cells, share, *, heads, at_once):
    """One step of AdamW of every cell; each has rate and decay of its own."""
    tokens, labels, weights = batch

    def one(cell):
        (params, moments), (lr, decay) = cell

        def loss(params):
            scores = attentive_head.logits(params, tokens, places, heads=heads)
            losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
            return losses @ weights / weights.sum()

        direction, moments = _ADAM.update(jax.grad(loss)(params), moments)

        def move(path, p, d):
            decayed = decay * p if path[-1].key == "kernel" else 0.0
            return p - share * lr * (d + decayed)

        return jax.tree_util.tree_map_with_path(move, params, direction), moments

    return jax.lax.map(one, (state, (cells[:, 0], cells[:, 1])), batch_size=at_once)


def _batches(see, part, settings, mesh) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
    """(tokens [B, T, D], labels, weights), every clip once an epoch, without end."""
    batch, count = settings.batch, len(part.indices)

    def load(position):
        i = int(order.record_index(position, size=count, seed=settings.seed))
        rng = order.rng(settings.seed, "clip", position)
        clip = part.frames(i, settings.frames)
        return i, random_square(clip, rng, crop=settings.crop, scale=settings.scale)

    def place(tokens, chosen):
        weights = np.ones(len(chosen), np.float32)  # 0 for rows that fill up
        rows = (tokens, _fill(part.labels[chosen], mesh), _fill(weights, mesh))
        return tuple(jax.device_put(rows, sharding.batch_sharding(mesh)))

    if settings.augment:
        loaded = in_order(load, itertools.count(), ahead=2 * batch)
        while True:
            chosen, clips = zip(*itertools.islice(loaded, batch))
            yield place(see(np.stack(clips)), np.array(chosen))
    else:
        seen = _seen(see, _views(part, settings, tta=False), batch)
        tokens = np.concatenate([np.asarray(rows)[:few] for rows, few in seen])
        for first in itertools.count(0, batch):
            positions = np.arange(first, first + batch)
            chosen = order.record_index(positions, size=count, seed=settings.seed)
            yield place(_fill(tokens[chosen], mesh), chosen)


def _score(see, params, places, part, settings, *, tta=False):
    """Log of the mean probability of a clip's views, float32 [cells, n, K]."""
    found = []
    for tokens, count in _seen(see, _views(part, settings, tta=tta), settings.batch):
        scores = _log_probabilities(
            params, tokens, places, heads=settings.heads, at_once=settings.at_once
        )
        found.append(np.asarray(scores)[:, :count])
    every = np.concatenate(found, axis=1)  # [cells, n views, K]
    every = every.reshape(len(every), len(part.indices), -1, every.shape[-1])
    with np.errstate(invalid="ignore"):  # of cells that diverged
        return np.logaddexp.reduce(every, axis=2) - np.log(every.shape[2])


@functools.partial(jax.jit, static_argnames=("heads", "at_once"))
def _log_probabilities(params, tokens, places, *, heads, at_once):
    one = lambda params: attentive_head.logits(params, tokens, places, heads=heads)  # noqa: E731
    return jax.nn.log_softmax(jax.lax.map(one, params, batch_size=at_once), axis=-1)


def _seen(see, views, batch) -> Iterator[tuple[jax.Array, int]]:
    """(tokens, how many of their rows are views) of ``batch`` views after the other."""
    while chunk := list(itertools.islice(views, batch)):
        # The last batch is filled up, so that one shape is compiled.
        yield see(np.stack(chunk + chunk[:1] * (batch - len(chunk)))), len(chunk)


def _views(part, settings, *, tta) -> Iterator[np.ndarray]:
    """uint8 [frames, crop, crop, 3]: the centre of each clip or, with ``tta``, six views of it."""

    def load(i):
        if tta:
            return six_views(part.frames(i, 2 * settings.frames), crop=settings.crop)
        return [square(part.frames(i, settings.frames), place=0.5, crop=settings.crop)]

    for views in in_order(load, range(len(part.indices)), ahead=settings.batch):
        yield from views


def _fill(rows, mesh):
    """Rows of zeros added until the devices of ``mesh`` share them evenly."""
    extra = whole_batch(len(rows), mesh) - len(rows)
    return np.concatenate([rows, np.zeros((extra, *rows.shape[1:]), rows.dtype)])
