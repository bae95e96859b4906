"""Batches of noise with true masks: a step costs what it costs on photographs."""

import jax.numpy as jnp
import numpy as np

from dinov3_jax.config import TrainConfig
from dinov3_jax.data.masking import group_masks, mask_indices_and_weights
from dinov3_jax.train.targets import Batch


def random_batch(config: TrainConfig, *, seed: int = 0) -> Batch:
    """One global batch of normal pixels, and masks as the data pipeline draws them."""
    rng = np.random.default_rng(seed)
    crops, images, group = config.crops, config.batch.images, config.batch.group
    side = crops.global_size // config.student.stride
    masks = [
        group_masks(
            rng,
            crops=2 * group,
            grid=(side, side),
            probability=config.ibot.mask_probability,
            ratio=config.ibot.mask_ratio,
            circular_shift=config.ibot.circular_shift,
        )
        for _ in range(images // group)
    ]
    indices, weights = zip(*map(mask_indices_and_weights, masks))

    def pixels(count, size):
        shape = (images, count, size, size, config.student.in_channels)
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    return Batch(
        pixels(2, crops.global_size),
        pixels(crops.local_count, crops.local_size),
        jnp.asarray(np.concatenate(masks).reshape(images, 2, -1)),
        jnp.asarray(np.stack(indices)),
        jnp.asarray(np.stack(weights)),
        None if crops.gram_size is None else pixels(2, crops.gram_size),
    )
