"""Mixed resolutions: the crop sizes of each step of a run.

A step has one entry of ``crops.mixture`` for all its images, so every batch has one shape and the
train step one program an entry.
"""

import dataclasses

import numpy as np

from dinov3_jax.config import CropConfig, TrainConfig
from dinov3_jax.data import order


def resolution_at(config: TrainConfig, step: int) -> int:
    """Entry of ``crops.mixture`` that step ``step`` has, drawn by the shares; 0 without a mixture.

    Depends on (seed, step) alone: the same on every process and after every restart.
    """
    mixture = config.crops.mixture
    if mixture is None:
        return 0
    ends = np.cumsum([share for *_, share in mixture])
    u = order.rng(config.seed, "resolution", step).random()
    return int(np.searchsorted(ends / ends[-1], u, side="right"))  # never a share of 0


def crops_at(crops: CropConfig, index: int) -> CropConfig:
    """``crops`` with the sizes of entry ``index`` and no mixture; as it is if it has none."""
    if crops.mixture is None:
        return crops
    global_size, local_size, gram_size, _ = crops.mixture[index]
    return dataclasses.replace(
        crops, global_size=global_size, local_size=local_size, gram_size=gram_size, mixture=None
    )
