"""A batch of the data pipeline to the crops the networks see; traced inside the train step."""

import jax

from dinov3_jax.augment import geometry, photometric
from dinov3_jax.augment.normalize import normalize
from dinov3_jax.config import CropConfig


def augment(batch: dict[str, jax.Array], *, crops: CropConfig) -> tuple[jax.Array, jax.Array]:
    """Batch of ``train_batches`` -> (global_crops [B, 2, H, W, 3], local_crops [B, L, h, w, 3]).

    Both float32, normalised. A batch with ``global_crops`` was cut on the host and is normalised
    only. A batch with ``canvas`` uint8 [B, C, C, 3] carries the draws of
    ``dinov3_jax.data.crops.draw`` with a leading B, global crops first; all else happens here.
    """
    if "canvas" in batch:
        global_crops = _cut(batch, slice(0, 2), size=crops.global_size)
        local_crops = _cut(batch, slice(2, 2 + crops.local_count), size=crops.local_size)
    else:
        global_crops, local_crops = batch["global_crops"], batch["local_crops"]
    with jax.named_scope("normalize"):
        return (
            normalize(global_crops, mean=crops.mean, std=crops.std),
            normalize(local_crops, mean=crops.mean, std=crops.std),
        )


def _cut(batch: dict[str, jax.Array], which: slice, *, size: int) -> jax.Array:
    """Crops ``which`` of every image, levels float32 [B, G, size, size, 3]."""
    draw = {name: batch[name][:, which] for name in _DRAWS}
    with jax.named_scope("crop_resize"):
        levels = geometry.crop_resize(batch["canvas"], draw["box"], draw["flip"], size=size)
    with jax.named_scope("photometric"):
        levels = photometric.jitter(levels, draw["jitter"], draw["order"], draw["factors"])
        levels = photometric.gray(levels, draw["gray"])
        levels = photometric.blur(levels, draw["blur"])
        return photometric.solarize(levels, draw["solarize"])


_DRAWS = ("box", "flip", "jitter", "order", "factors", "gray", "blur", "solarize")
