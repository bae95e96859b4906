"""Square views of a clip: at a place, six at places and times of a test, a random box."""

import numpy as np
from PIL import Image

from dinov3_jax.data import crops
from dinov3_jax.data.bicubic import resize


def square(clip: np.ndarray, *, place: float, crop: int) -> np.ndarray:
    """uint8 [frames, h, w, 3] -> [frames, crop, crop, 3]: the short side becomes ``crop``, then the
    square at ``place`` of the longer side is taken, 0 its start, 1 its end. Bicubic, by Pillow."""
    height, width = clip.shape[1:3]
    short = min(height, width)
    size = (crop * width // short, crop * height // short)
    top, left = round(place * (size[1] - crop)), round(place * (size[0] - crop))
    whole = [Image.fromarray(x).resize(size, Image.Resampling.BICUBIC) for x in clip]
    return np.stack([np.asarray(x)[top : top + crop, left : left + crop] for x in whole])


def six_views(clip: np.ndarray, *, crop: int) -> list[np.ndarray]:
    """uint8 [2 frames, h, w, 3] -> 6 of [frames, crop, crop, 3]: every second frame, from the first
    and from the second on, each at the start, the middle and the end of the longer side."""
    return [
        square(clip[start::2], place=place, crop=crop)
        for start in (0, 1)
        for place in (0.0, 0.5, 1.0)
    ]


def random_square(
    clip: np.ndarray, rng: np.random.Generator, *, crop: int, scale: tuple[float, float]
) -> np.ndarray:
    """One box for all frames (``crops.random_box``), resized to [frames, crop, crop, 3].

    Nothing is mirrored: "from left to right" may be what a clip is about.
    """
    height, width = clip.shape[1:3]
    y, x, h, w = crops.random_box(rng, height=height, width=width, scale=scale)
    return np.stack([resize(frame[y : y + h, x : x + w], crop, crop) for frame in clip])
