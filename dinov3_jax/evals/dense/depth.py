"""Linear depth: how far each patch is, from frozen tokens.

Batch norm and one matrix on the last layer's patch tokens give each patch weights of depth bins;
its depth is their mean. Source: DINOv3 (arXiv 2508.10104), appendix D.2, and its reference
configuration for NYU, which the defaults follow: one learning rate and weight decay. The paper's
scores are the best of lr (1e-4, 3e-4, 1e-3) x weight_decay (1e-4, 1e-3).
"""

import collections
import dataclasses
import functools
import itertools

import jax
import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.depth import DepthSet, Protocol, open_depth
from dinov3_jax.data.benchmarks.depth_augment import training_crop
from dinov3_jax.data.benchmarks.resize_short import resize_image
from dinov3_jax.data.in_order import in_order
from dinov3_jax.data.order import record_index, rng
from dinov3_jax.data.sources import SourceError
from dinov3_jax.distributed.agree import fetch
from dinov3_jax.evals.dense import depth_loss, depth_metrics, pictures, schedules
from dinov3_jax.evals.dense.bilinear import bilinear
from dinov3_jax.evals.dense.probe import (
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
class DepthSettings:
    data: str  # a folder in one of the layouts of data/benchmarks/depth.py
    per_metre: float = 1000.0  # what a PNG of one's own data stores for one metre
    lr: tuple[float, ...] = (3e-4,)  # peaks; each is tried with each weight decay
    weight_decay: tuple[float, ...] = (1e-4,)
    steps: int = 38_400  # of AdamW, betas 0.9 and 0.99, gradient norm at most 35
    warmup: int = 12_800  # steps
    cycle_beta1: bool = False  # as the reference does: 0 in the warm-up, then 0.85 to 0.95
    batch: int = 16  # crops a step
    bins: int = 256  # evenly from ``least`` to ``most``
    least: float = 0.001  # metres
    most: float | None = None  # metres; None: NYU 10, KITTI 80, one's own 10
    crop: str | None = None  # scored: "none" (all), "eigen", "garg"; None: NYU eigen, KITTI garg
    train_crop: tuple[int, int] | None = None  # pixels (H, W); None: KITTI 352, 704, else 416, 544
    size: int | None = None  # pixels: short side of images; None: as they are
    flip: bool = True  # the mean of an image's prediction and that of its mirror image
    align: bool = False  # scale and shift of each prediction fitted to the truth, before scoring
    cached: int | None = None  # batches of crops kept and repeated; None: new ones every step
    seed: int = 0


def evaluate(model: Model, settings: DepthSettings, mesh: Mesh) -> Result:
    """Means over the test images of ``depth_metrics.errors``: ``rmse`` in metres ..., of several
    candidates those of smallest ``rmse``, and ``rmse/lr=.../wd=...`` of each. Test images without a
    depth to score are left out; ``images`` is the number of the others."""
    recipe = _recipe(settings)
    check_recipe(recipe, warmup=settings.warmup)
    train, test = open_depth(settings.data, per_metre=settings.per_metre)
    protocol = _protocol(settings, train.protocol)
    limits = dict(least=settings.least, most=protocol.most)
    _check_truth(
        test, settings, functools.partial(depth_metrics.scored, crop=protocol.crop, **limits)
    )
    tokens = frozen_tokens(model, mesh)
    crops = repeat(_crops(train, tokens, settings, protocol, model, mesh), settings.cached)
    loss = functools.partial(
        depth_loss.loss, size=protocol.train_crop, stride=model.stride, **limits
    )
    probe = train_probe(crops, loss, recipe, outputs=settings.bins, mesh=mesh)
    metres = jax.jit(functools.partial(depth_loss.metres, **limits))
    predicted = functools.partial(
        _predicted, test, lambda images: metres(predict(probe, tokens(images))), model, settings
    )
    score = functools.partial(errors, crop=protocol.crop, align=settings.align, **limits)
    found = {
        i: [score(one, depth) for one in candidates]
        for i, _, depth, candidates in predicted(range(len(test)))
    }
    metrics, best = _metrics(found, recipe)
    own = {i: each[best]["rmse"] for i, each in found.items() if each[best]}
    drawn = [
        Picture(
            f"Image, true and predicted depth: RMSE {own[i]:.3f} m in this image",
            pictures.depth_row(image, depth, candidates[best]),
        )
        for i, image, depth, candidates in predicted(pictures.extremes(own))
    ]
    return Result(metrics, tuple(drawn))


def errors(
    predicted: np.ndarray,
    depth: np.ndarray,
    *,
    crop: str,
    align: bool,
    least: float,
    most: float,
) -> dict[str, float]:
    """``depth_metrics.errors`` of one image, both [H, W] metres, over the pixels that
    ``depth_metrics.scored`` chooses; {} where there are none. The prediction, with ``align`` after
    ``depth_metrics.align``, is clipped to ``least`` .. ``most``."""
    mask = depth_metrics.scored(depth, crop=crop, least=least, most=most)
    if not mask.any():
        return {}
    p, d = predicted[mask], depth[mask]
    if align:
        scale, shift = depth_metrics.align(p, d)
        p = scale * p + shift
    return depth_metrics.errors(np.clip(p, least, most), d)


def _recipe(settings):
    ends = dict(steps=settings.steps, warmup=settings.warmup)
    cycled = functools.partial(schedules.depth_beta1, **ends)
    return Recipe(
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        steps=settings.steps,
        schedule=functools.partial(schedules.depth, **ends),
        beta1=cycled if settings.cycle_beta1 else lambda step: 0.9,
        beta2=0.99,
        clip=35.0,
        dropout=0.0,
        seed=settings.seed,
    )


def _protocol(settings: DepthSettings, published: Protocol) -> Protocol:
    """That of the data set, but for what the settings say."""
    protocol = dataclasses.replace(
        published,
        crop=published.crop if settings.crop is None else settings.crop,
        most=published.most if settings.most is None else settings.most,
        train_crop=published.train_crop if settings.train_crop is None else settings.train_crop,
    )
    if protocol.crop not in depth_metrics.CROPS:
        names = ", ".join(map(repr, depth_metrics.CROPS))
        raise ConfigError(f"crop is {protocol.crop!r}, wanted one of {names}")
    if not 0 < settings.least < protocol.most:
        raise ConfigError(
            f"least is {settings.least} m, most {protocol.most} m; wanted 0 < least < most"
        )
    for name in ("batch", "bins", "size", "cached"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}, wanted at least 1")
    if min(protocol.train_crop) < 1:
        raise ConfigError(f"train_crop is {protocol.train_crop}, wanted (rows, columns), positive")
    return protocol


def _check_truth(test, settings, scored):
    """Reads all that will be scored: what is wrong there is said before the training."""
    pairs = in_order(test.__getitem__, range(len(test)), ahead=2 * settings.batch)
    # All of them are read, not those up to the first with a depth.
    if not sum(bool(scored(depth).any()) for _, depth in pairs):
        raise SourceError("no pixel of the test images has a depth that is scored")


def _crops(
    train: DepthSet, tokens: Tokens, settings: DepthSettings, protocol: Protocol, model: Model, mesh
):
    """Batches without end: (tokens [batch, h, w, D], metres float32 [batch, *train_crop])."""
    fill = mean_colour(model)

    def crop(g):
        image, depth = train[int(record_index(g, size=len(train), seed=settings.seed))]
        image, depth = training_crop(
            image,
            depth,
            rng(settings.seed, "depth", g),
            box=protocol.box,
            short=settings.size,
            size=protocol.train_crop,
            fill=fill,
        )
        return depth_loss.padded(image, model.stride, fill), depth

    made = in_order(crop, itertools.count(), ahead=2 * settings.batch)
    while True:
        images, depths = map(np.stack, zip(*itertools.islice(made, settings.batch)))
        yield tokens(images), jax.device_put(depths, spread(len(depths), mesh))


def _predicted(test: DepthSet, metres, model: Model, settings: DepthSettings, indices):
    """(index, image, depth, predictions [candidates, *depth.shape]) of the images ``indices``, in
    batches of one size of images. metres: images of whole patches -> [candidates, n, h, w]."""
    batch, fill = settings.batch, mean_colour(model)

    def load(i):
        image, depth = test[i]
        seen = image if settings.size is None else resize_image(image, settings.size)
        return i, image, depth, seen

    def predict_all(group):
        stacked = np.stack([depth_loss.padded(seen, model.stride, fill) for *_, seen in group])
        full = np.zeros((batch, *stacked.shape[1:]), np.uint8)
        full[: len(stacked)] = stacked
        patches = metres(full)
        if settings.flip:
            patches = (patches + metres(full[:, :, ::-1])[..., ::-1]) / 2
        patches = fetch(patches)
        for n, (i, image, depth, seen) in enumerate(group):
            size = seen.shape[:2]
            rows, columns = depth_loss.whole_patches(size, patches.shape[2:], model.stride)
            rows, columns = (
                bilinear(a, b) @ own
                for a, b, own in zip(size, depth.shape, (rows, columns), strict=True)
            )
            yield i, image, depth, rows @ patches[:, n] @ columns.T

    waiting = collections.defaultdict(list)
    for item in in_order(load, indices, ahead=2 * batch):
        group = waiting[item[-1].shape]
        group.append(item)
        if len(group) == batch:
            yield from predict_all(waiting.pop(item[-1].shape))
    for group in waiting.values():
        yield from predict_all(group)


def _metrics(found, recipe):
    """(metrics, the best candidate) of the errors {index: one dict for each candidate}."""
    kept = [each for each in found.values() if each[0]]
    sweep = [
        {name: float(np.mean([each[c][name] for each in kept])) for name in kept[0][0]}
        for c in range(len(recipe.candidates))
    ]
    best = int(np.argmin([scores["rmse"] for scores in sweep]))
    metrics = sweep[best] | {"images": float(len(kept))}
    if len(sweep) > 1:
        for (lr, decay), scores in zip(recipe.candidates, sweep, strict=True):
            metrics[f"rmse/lr={lr:g}/wd={decay:g}"] = scores["rmse"]
    return metrics, best
