"""Random crops of one image: every draw of its augmentation, and the crops cut on the host.

The draws are plain arrays, so the same picture comes out of ``cut`` (OpenCV, on the host) and of
``dinov3_jax.augment`` (JAX, on the device).
"""

import functools
import math

import cv2
import numpy as np

from dinov3_jax.config import CropConfig
from dinov3_jax.data import color

# Images are spread over reader threads and processes already; OpenCV's own threads would fight
# with them for the same cores.
cv2.setNumThreads(0)

_TRIES = 10  # boxes tried before the centre of the image is taken
_RATIO = (3 / 4, 4 / 3)  # width over height of a box, log-uniform

# Columns of the one table of uniform numbers that all draws of an image come from.
_AREA, _ASPECT, _TOP, _LEFT, _FLIP, _JITTER = 0, 10, 20, 21, 22, 23
_FACTORS, _ORDER, _GRAY, _BLUR, _SIGMA, _SOLARIZE, _COLUMNS = 24, 28, 32, 33, 34, 35, 36


def draw(
    rng: np.random.Generator, *, height: int, width: int, crops: CropConfig
) -> dict[str, np.ndarray]:
    """All random numbers of one image's 2 global and L local crops, in that order (n = 2 + L).

    They depend on no size: Gram crops and every entry of a mixture have the same ones.

    ``box``      float32 [n, 4]: y, x, height, width in pixels of the image, whole numbers;
                 RandomResizedCrop: area share and log aspect ratio uniform, 10 tries, then centre.
    ``flip``     bool [n]: mirrored left to right.
    ``jitter``   bool [n]: whether ``order`` and ``factors`` apply.
    ``order``    int32 [n, 4]: permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue.
    ``factors``  float32 [n, 4]: factors of 0, 1, 2; turns of the colour circle of 3.
    ``gray``     bool [n].
    ``blur``     float32 [n]: sigma in pixels of the crop that is blurred, 0 for none.
    ``solarize`` bool [n]: only ever True for the second global crop.

    Images smaller than a crop are no error: boxes have the same shares and are enlarged.
    """
    if height < 1 or width < 1:
        raise ValueError(f"image is {height} x {width} pixels, wanted at least 1 x 1")
    table = _table(crops)
    u = rng.random((2 + crops.local_count, _COLUMNS))
    sigma = crops.blur_sigma[0] + (crops.blur_sigma[1] - crops.blur_sigma[0]) * u[:, _SIGMA]
    return {
        "box": _boxes(u, height, width, table),
        "flip": u[:, _FLIP] < (0.5 if crops.horizontal_flip else 0.0),
        "jitter": u[:, _JITTER] < crops.jitter_probability,
        "order": u[:, _ORDER:_GRAY].argsort(axis=1).astype(np.int32),
        "factors": (table["low"] + table["span"] * u[:, _FACTORS:_ORDER]).astype(np.float32),
        "gray": u[:, _GRAY] < crops.gray_probability,
        "blur": ((u[:, _BLUR] < table["blur"]) * sigma).astype(np.float32),
        "solarize": u[:, _SOLARIZE] < table["solarize"],
    }


def random_box(
    rng: np.random.Generator, *, height: int, width: int, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """y, x, height, width in whole pixels of one RandomResizedCrop, as the boxes of ``draw``.

    ``scale``: least and largest share of the image's area.
    """
    if height < 1 or width < 1 or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(
            f"image is {height} x {width} pixels, scale {scale}; wanted at least 1 x 1 and "
            "0 < scale[0] <= scale[1] <= 1"
        )
    table = {"scale_low": np.float64(scale[0]), "scale_span": np.float64(scale[1] - scale[0])}
    y, x, h, w = map(int, _boxes(rng.random((1, _FLIP)), height, width, table)[0])
    return y, x, h, w


def cut(
    image: np.ndarray, draws: dict[str, np.ndarray], *, crops: CropConfig
) -> dict[str, np.ndarray]:
    """The crops of one image, drawn by ``draw``, all uint8.

    ``global_crops`` [2, H, W, 3]; ``local_crops`` [L, h, w, 3]; and, if ``crops.gram_size`` is g,
    ``gram_crops`` [2, g, g, 3], with the boxes and flips of the global crops:
    with ``gram_distortions`` colours, blur and solarization act on the Gram crop, and the global
    crop is that picture resized; without, the Gram crop is a plain resize, and the global crop is
    the one it would be without Gram crops. (The reference resizes the global crop from the larger
    one in both cases; cut from the image it is resampled once, not twice.)

    image: uint8 [height, width, 3]. Resized by pixel area where a box shrinks, bicubically where
    it grows.
    """
    size, side = crops.global_size, crops.gram_size
    global_crops = np.empty((2, size, size, 3), np.uint8)
    local_crops = np.empty((crops.local_count, crops.local_size, crops.local_size, 3), np.uint8)
    gram_crops = None if side is None else np.empty((2, side, side, 3), np.uint8)
    lists = {name: values.tolist() for name, values in draws.items()}  # quicker than array scalars
    for i, out in enumerate([*global_crops, *local_crops]):
        gram = None if gram_crops is None or i >= 2 else gram_crops[i]
        if gram is not None and crops.gram_distortions:
            gram[:] = _distort(_crop(image, lists, i, len(gram)), lists, i)
            out[:] = resize(gram, size, size)
        else:
            if gram is not None:
                gram[:] = _crop(image, lists, i, len(gram))
            out[:] = _distort(_crop(image, lists, i, len(out)), lists, i)
    cut = {"global_crops": global_crops, "local_crops": local_crops}
    return cut if gram_crops is None else {**cut, "gram_crops": gram_crops}


def _crop(image: np.ndarray, lists: dict[str, list], i: int, size: int) -> np.ndarray:
    """Box ``i`` of the image, mirrored where drawn: uint8 [size, size, 3]."""
    y, x, h, w = map(int, lists["box"][i])
    crop = resize(image[y : y + h, x : x + w], size, size)
    return cv2.flip(crop, 1) if lists["flip"][i] else crop


def _distort(crop: np.ndarray, lists: dict[str, list], i: int) -> np.ndarray:
    """Colours, blur and solarization of crop ``i``."""
    if lists["jitter"][i]:
        crop = color.jitter(crop, lists["order"][i], lists["factors"][i])
    if lists["gray"][i]:
        crop = color.gray(crop)
    if lists["blur"][i]:
        crop = color.blur(crop, lists["blur"][i])
    if lists["solarize"][i]:
        crop = color.solarize(crop)
    return crop


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [h, w, 3] -> [height, width, 3]: area means if both sides shrink, else bicubic."""
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method)


def _boxes(u: np.ndarray, height: int, width: int, table: dict) -> np.ndarray:
    area = height * width * (table["scale_low"] + table["scale_span"] * u[:, _AREA:_ASPECT])
    aspect = np.exp(math.log(_RATIO[0]) + math.log(_RATIO[1] / _RATIO[0]) * u[:, _ASPECT:_TOP])
    w = np.rint(np.sqrt(area * aspect))  # [n, tries]
    h = np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    rows, first = np.arange(len(u)), fits.argmax(axis=1)
    w, h = w[rows, first], h[rows, first]  # [n]
    # u < 1 makes floor(u * (range + 1)) uniform over 0..range.
    y = np.floor(u[:, _TOP] * (height - h + 1))
    x = np.floor(u[:, _LEFT] * (width - w + 1))
    boxes = np.stack([y, x, h, w], axis=1)
    boxes[~fits.any(axis=1)] = _centre_box(height, width)
    return boxes.astype(np.float32)  # [n, 4]


def _centre_box(height: int, width: int) -> tuple[int, int, int, int]:
    """The largest centred box with an allowed aspect ratio."""
    h, w = height, width
    if width / height < _RATIO[0]:
        h = max(1, round(width / _RATIO[0]))
    elif width / height > _RATIO[1]:
        w = max(1, round(height * _RATIO[1]))
    return (height - h) // 2, (width - w) // 2, h, w


@functools.lru_cache
def _table(crops: CropConfig) -> dict[str, np.ndarray]:
    """The limits of the draws, one row a crop; made once, they cost as much as an image's draws."""
    local = crops.local_count
    scale = np.array([crops.global_scale] * 2 + [crops.local_scale] * local)
    limits = np.array(
        [
            (max(0.0, 1 - crops.brightness), 1 + crops.brightness),
            (max(0.0, 1 - crops.contrast), 1 + crops.contrast),
            (max(0.0, 1 - crops.saturation), 1 + crops.saturation),
            (-crops.hue, crops.hue),
        ]
    )
    return {
        "scale_low": scale[:, :1],
        "scale_span": scale[:, 1:] - scale[:, :1],
        "low": limits[:, 0],
        "span": limits[:, 1] - limits[:, 0],
        "blur": np.array([*crops.blur_probability[:2], *[crops.blur_probability[2]] * local]),
        "solarize": np.array([0.0, crops.solarize_probability, *[0.0] * local]),
    }
