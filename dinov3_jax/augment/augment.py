"""A batch of the data pipeline to the crops the networks see; traced inside the train step."""

from typing import NamedTuple

import jax

from dinov3_jax.augment import geometry, photometric
from dinov3_jax.augment.normalize import normalize
from dinov3_jax.config import CropConfig


class Crops(NamedTuple):
    """Crops of B images, image-major, float32, normalised."""

    global_crops: jax.Array  # [B, 2, H, W, 3]
    local_crops: jax.Array  # [B, L, h, w, 3]
    gram_crops: jax.Array | None  # [B, 2, g, g, 3], boxes of the global crops; None if not asked


def augment(batch: dict[str, jax.Array], *, crops: CropConfig) -> Crops:
    """Batch of ``train_batches`` -> the crops of its step.

    ``crops`` has the sizes of the step (``dinov3_jax.data.resolution.crops_at``); Gram crops are
    made if it has a ``gram_size``. A batch with ``global_crops`` was cut on the host and is
    normalised only. A batch with ``canvas`` uint8 [B, C, C, 3] carries the draws of
    ``dinov3_jax.data.crops.draw`` with a leading B, global crops first; all else happens here, as
    in ``dinov3_jax.data.crops.cut``.
    """
    if crops.mixture is not None:
        raise ValueError("crops is a mixture of sizes, wanted one; take crops_at(crops, index)")
    if "canvas" in batch:
        levels = _cut(batch, crops)
    else:
        gram_crops = None if crops.gram_size is None else batch["gram_crops"]
        levels = Crops(batch["global_crops"], batch["local_crops"], gram_crops)
    with jax.named_scope("normalize"):
        return jax.tree.map(lambda x: normalize(x, mean=crops.mean, std=crops.std), levels)


def _cut(batch: dict[str, jax.Array], crops: CropConfig) -> Crops:
    """All crops in levels, float32 in [0, 255]."""
    pair, local = slice(0, 2), slice(2, 2 + crops.local_count)
    local_crops = _distort(_crop(batch, local, size=crops.local_size), batch, local)
    gram_crops = None
    if crops.gram_size is not None:
        gram_crops = _crop(batch, pair, size=crops.gram_size)
        if crops.gram_distortions:
            gram_crops = _distort(gram_crops, batch, pair)
            with jax.named_scope("gram_resize"):
                global_crops = geometry.resize(gram_crops, size=crops.global_size)
            return Crops(global_crops, local_crops, gram_crops)
    global_crops = _distort(_crop(batch, pair, size=crops.global_size), batch, pair)
    return Crops(global_crops, local_crops, gram_crops)


def _crop(batch: dict[str, jax.Array], which: slice, *, size: int) -> jax.Array:
    """Boxes ``which`` of every image, mirrored where drawn: float32 [B, G, size, size, 3]."""
    box, flip = batch["box"][:, which], batch["flip"][:, which]
    with jax.named_scope("crop_resize"):
        return geometry.crop_resize(batch["canvas"], box, flip, size=size)


def _distort(levels: jax.Array, batch: dict[str, jax.Array], which: slice) -> jax.Array:
    """Colours, blur and solarization of crops ``which`` of every image, [B, G, h, w, 3]."""
    draw = {name: batch[name][:, which] for name in _DRAWS}
    with jax.named_scope("photometric"):
        levels = photometric.jitter(levels, draw["jitter"], draw["order"], draw["factors"])
        levels = photometric.gray(levels, draw["gray"])
        levels = photometric.blur(levels, draw["blur"])
        return photometric.solarize(levels, draw["solarize"])


_DRAWS = ("jitter", "order", "factors", "gray", "blur", "solarize")
