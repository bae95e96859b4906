"""Training crops of images with depths: turn, mirror, crop and colour, as linear probes are
trained."""

import numpy as np
from PIL import Image

from dinov3_jax.data.benchmarks.resize_short import resize_short

_TURN = 2.5  # degrees


def training_crop(
    image: np.ndarray,
    depth: np.ndarray,
    rng: np.random.Generator,
    *,
    box: tuple[int, int, int, int] | None,
    short: int | None,
    size: tuple[int, int],
    fill: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [h, w, 3] and float32 [h, w], metres -> [*size, 3] and [*size].

    In this order: ``box`` (top, left, bottom, right) is cut out; its short side becomes ``short``
    pixels (depth nearest; None: as it is); in one of two cases a turn by up to 2.5 degrees (depth
    nearest; corners are black, their depth 0); a mirror image in one of two; a random crop of
    ``size``; ``recolour`` in one of two; ``fill`` and depth 0, which is unknown, at the right and
    below where the image is smaller than ``size``.
    """
    if box is not None:
        top, left, bottom, right = box
        image, depth = image[top:bottom, left:right], depth[top:bottom, left:right]
    if short is not None:
        image, depth = resize_short(image, short, depth)
    if rng.random() < 0.5:
        degrees = rng.uniform(-_TURN, _TURN)
        image = np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR))
        depth = np.asarray(Image.fromarray(depth).rotate(degrees, Image.Resampling.NEAREST))
    if rng.random() < 0.5:
        image, depth = image[:, ::-1], depth[:, ::-1]
    height, width = (min(a, b) for a, b in zip(depth.shape, size, strict=True))
    top = rng.integers(depth.shape[0] - height + 1)
    left = rng.integers(depth.shape[1] - width + 1)
    rows, columns = slice(top, top + height), slice(left, left + width)
    image, depth = image[rows, columns], depth[rows, columns]
    if rng.random() < 0.5:
        image = recolour(image, rng)
    pixels = np.empty((*size, 3), np.uint8)
    pixels[:] = fill
    pixels[:height, :width] = image
    target = np.zeros(size, np.float32)
    target[:height, :width] = depth
    return pixels, target


def recolour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """level^gamma · brightness · colour, clipped to 0..255; gamma from U(0.9, 1.1), brightness from
    U(0.75, 1.25), colour, one a channel, from U(0.9, 1.1)."""
    gamma, brightness = rng.uniform((0.9, 0.75), (1.1, 1.25))
    colour = rng.uniform(0.9, 1.1, 3)
    levels = image.astype(np.float32) ** np.float32(gamma)
    return np.clip(levels * (brightness * colour).astype(np.float32), 0, 255).astype(np.uint8)
