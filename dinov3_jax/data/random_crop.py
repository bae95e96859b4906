"""The training augmentation of classifiers: a random box, resized, mirrored at random."""

import numpy as np

from dinov3_jax.data import bicubic, crops


def random_crop(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    crop: int,
    scale: tuple[float, float] = (0.08, 1.0),
) -> np.ndarray:
    """uint8 [h, w, 3] -> uint8 [crop, crop, 3]: RandomResizedCrop, then a flip with chance 1/2.

    ``scale``: least and largest share of the area; see ``crops.random_box``. Bicubic and
    antialiased, by Pillow, as ``data.centre_crop``.
    """
    y, x, h, w = crops.random_box(rng, height=image.shape[0], width=image.shape[1], scale=scale)
    cut = bicubic.resize(image[y : y + h, x : x + w], crop, crop)
    return np.ascontiguousarray(cut[:, ::-1]) if rng.random() < 0.5 else cut
