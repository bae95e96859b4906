"""Masks from attention: do the heads of the last block look at the object?

The measure of DINO (Caron et al. 2021, section 4.2.2), published on VOC2012 val.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from dinov3_jax.augment.normalize import normalize
from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.foreground import open_foreground
from dinov3_jax.data.fit import fit
from dinov3_jax.data.in_order import in_order
from dinov3_jax.data.sources import SourceError
from dinov3_jax.distributed import sharding
from dinov3_jax.evals.evaluation import Picture, Result
from dinov3_jax.evals.tracking.overlay import paint
from dinov3_jax.features.batches import in_batches
from dinov3_jax.features.extract import whole_batch
from dinov3_jax.models.attention_maps import cls_attention
from dinov3_jax.models.model import Model

SHOWN = 4  # of the best images, and of the worst


@dataclasses.dataclass(frozen=True)
class AttentionSettings:
    data: str
    split: str = "val"  # of VOC; a folder of one's own has none
    mass: float = 0.6  # of the attention to patches that a mask holds
    size: int = 480  # pixels of a square, rounded up to whole patches
    layer: int | None = None  # block, counted from 0; None: the last
    batch: int = 16  # images through the model at once


def evaluate(model: Model, settings: AttentionSettings, mesh: Mesh) -> Result:
    """``jaccard``: percent, mean over images of |mask ∩ foreground| / |mask ∪ foreground|.

    A mask is the smallest set of patches with ``settings.mass`` of the attention of CLS to patches
    (storage tokens do not count), at the image's own size; of an image the head counts that is best
    there, chosen with the truth. Of ``images``; ``images_without_foreground`` were left out.
    """
    if not 0 < settings.mass <= 1:
        raise ConfigError(f"mass is {settings.mass}, wanted above 0 and at most 1")
    data = open_foreground(settings.data, settings.split)
    attend = attention(model, mesh, layer=settings.layer, batch=settings.batch)
    side = -(-settings.size // model.stride) * model.stride
    size, scores, shown, empty = whole_batch(settings.batch, mesh), [], [], 0
    for start in range(0, len(data), size):
        numbers = range(start, min(start + size, len(data)))
        batch = list(in_order(data.__getitem__, numbers, ahead=size))
        fitted = [
            fit(image, (side, side), how="resize", stride=model.stride, fill=(0, 0, 0)).pixels
            for image, _ in batch
        ]
        for i, ((image, alpha), maps) in enumerate(zip(batch, attend(np.stack(fitted))), start):
            if not np.nanmax(alpha, initial=0) > 0.5:
                empty += 1
                continue
            masks = mass_masks(maps, settings.mass)
            each = jaccards(masks, alpha)
            best = int(np.argmax(each))
            scores.append(each[best])
            name = data.images[i].rpartition("/")[2]
            shown.append((each[best], _picture(name, image, masks[best], best, each[best])))
            shown = _extremes(shown)
    if not scores:
        raise SourceError(f"no mask of {settings.data} has foreground")
    metrics = {"jaccard": 100 * float(np.mean(scores)), "images": float(len(scores))}
    metrics["images_without_foreground"] = float(empty)
    return Result(metrics, tuple(picture for _, picture in shown))


def mass_masks(maps: np.ndarray, mass: float) -> np.ndarray:
    """The smallest set of patches with ``mass`` of the sum, bool [A, h, w], for maps [A, h, w]."""
    flat = maps.reshape(len(maps), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    ordered = np.take_along_axis(flat, order, axis=1)
    before = np.cumsum(ordered, axis=1) - ordered  # the sum of those that come first
    kept = before < mass * flat.sum(axis=1, keepdims=True)
    masks = np.zeros(flat.shape, bool)
    np.put_along_axis(masks, order, kept, axis=1)
    return masks.reshape(maps.shape)


def jaccards(masks: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Of masks of patches bool [A, h, w] against alpha [H, W], float64 [A] in [0, 1].

    Foreground is alpha > 0.5, with at least one such pixel; NaN does not count.
    """
    known, truth = ~np.isnan(alpha), alpha > 0.5
    height, width = alpha.shape
    scores = []
    for mask in masks:
        mask = _enlarge(mask, height, width) & known
        scores.append(np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth))
    return np.array(scores)


def attention(
    model: Model, mesh: Mesh, *, layer: int | None, batch: int
) -> Callable[[np.ndarray], np.ndarray]:
    """A function of uint8 [n, H, W, 3] to maps [n, A, h, w], in batches of ``whole_batch``.

    Those of ``cls_attention`` in block ``layer``, None: the last. Images are spread over ``mesh``;
    of several processes all call with the same images and get all maps. Raises ``ConfigError``,
    when called, for attention that is not finite.
    """
    # Of a ConvNeXt there is no last block: refused when asked.
    block = getattr(model.config, "depth", 1) - 1 if layer is None else layer
    specs = sharding.param_specs(model.params, mesh)
    params = jax.device_put(model.params, sharding.named(specs, mesh))
    size = whole_batch(batch, mesh)

    @jax.jit
    def compute(params, pixels):
        pixels = normalize(pixels, mean=model.mean, std=model.std)
        return cls_attention(dataclasses.replace(model, params=params), pixels, block)

    def attend(images):
        maps = in_batches(functools.partial(compute, params), images, size=size, mesh=mesh)
        if not np.isfinite(maps).all():
            raise ConfigError(
                f"attention of {model.name} is not finite; its weights are damaged, or training "
                "diverged"
            )
        return maps

    return attend


def _enlarge(mask, height, width):
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def _extremes(shown):
    """The worst and the best of (score, picture), worst first."""
    ordered = sorted(shown, key=lambda pair: pair[0])
    return ordered if len(ordered) <= 2 * SHOWN else ordered[:SHOWN] + ordered[-SHOWN:]


def _picture(name, image, mask, head, score):
    drawn = Image.fromarray(image)
    drawn.thumbnail((512, 512))
    pixels = np.asarray(drawn)
    caption = f"{name}: head {head} in red, Jaccard {score:.2f}"
    return Picture(caption, paint(pixels, _enlarge(mask, *pixels.shape[:2]).astype(int)))
