"""Training crops of labelled images: scale, crop, flip and colour, as linear probes are trained."""

import numpy as np

from dinov3_jax.data import color
from dinov3_jax.data.benchmarks.resize_short import resize_short
from dinov3_jax.data.benchmarks.segmentation import IGNORED

_TRIES = 10  # crops drawn before one that a single class fills is taken all the same


def training_crop(
    image: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    size: int,
    scale: tuple[float, float],
    largest_class: float,
    fill: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [h, w, 3] and [h, w] -> [size, size, 3] and [size, size].

    In this order: the short side to ``size`` · U(``scale``) pixels (bilinear; labels nearest), a
    random crop with no class above ``largest_class`` of its labelled pixels (the last of 10 tries
    counts), a mirror image in one of two cases, ``distort``, and ``fill`` and ``IGNORED`` at the
    right and below where the crop is smaller than ``size``.
    """
    image, labels = resize_short(image, int(size * rng.uniform(*scale)), labels)
    rows, columns = _crop(labels, rng, size, largest_class)
    image, labels = image[rows, columns], labels[rows, columns]
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    image = distort(np.ascontiguousarray(image), rng)
    height, width = labels.shape
    pixels = np.empty((size, size, 3), np.uint8)
    pixels[:] = fill
    pixels[:height, :width] = image
    target = np.full((size, size), IGNORED, np.uint8)
    target[:height, :width] = labels
    return pixels, target


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each in one of two cases: brightness by up to 32 levels, contrast and saturation times 0.5
    to 1.5, hue by up to half the circle. Contrast comes second or, as often, last."""
    apply = rng.random(4) < 0.5
    shift, contrast, saturation, hue = rng.uniform((-32, 0.5, 0.5, -0.5), (32, 1.5, 1.5, 0.5))
    contrast_last = rng.random() < 0.5
    if apply[0]:
        image = np.clip(image + np.float32(shift), 0, 255).astype(np.uint8)
    if apply[1] and not contrast_last:
        image = color.contrast(image, contrast)
    if apply[2]:
        image = color.saturation(image, saturation)
    if apply[3]:
        image = color.hue(image, hue)
    if apply[1] and contrast_last:
        image = color.contrast(image, contrast)
    return image


def _crop(labels, rng, size, largest_class):
    height, width = (min(side, size) for side in labels.shape)
    for _ in range(_TRIES):
        top = rng.integers(labels.shape[0] - height + 1)
        left = rng.integers(labels.shape[1] - width + 1)
        rows, columns = slice(top, top + height), slice(left, left + width)
        counts = np.bincount(labels[rows, columns].ravel(), minlength=256)[:IGNORED]
        if (counts > 0).sum() > 1 and counts.max() < largest_class * counts.sum():
            break
    return rows, columns
