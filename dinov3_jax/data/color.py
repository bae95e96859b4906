"""Colour operations on one uint8 RGB crop on the host, as torchvision does them on PIL images.

Every function takes and returns uint8 [h, w, 3]; values are rounded after each operation.
"""

import cv2
import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601-2, as in Pillow's "L"
_LEVELS = np.arange(256, dtype=np.float32)
_SOLARIZED = np.where(np.arange(256) < 128, np.arange(256), 255 - np.arange(256)).astype(np.uint8)
_GRAY = np.tile(_LUMA, (3, 1))


def jitter(image: np.ndarray, order, factors) -> np.ndarray:
    """Brightness (0), contrast (1), saturation (2) and hue (3) in ``order``, each by its factor."""
    for operation in order:
        image = _OPERATIONS[operation](image, factors[operation])
    return image


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: image * factor."""
    return cv2.LUT(image, _blend_table(0, factor))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the image's mean grey level: mean + factor * (image - mean)."""
    red, green, blue, _ = cv2.mean(image)
    mean = int(_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + 0.5)
    return cv2.LUT(image, _blend_table(mean, factor))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the pixel's grey level: grey + factor * (image - grey)."""
    matrix = np.empty((3, 4))
    matrix[:, :3] = (1 - factor) * _GRAY
    matrix[(0, 1, 2), (0, 1, 2)] += factor
    matrix[:, 3] = -0.5 if factor != 1 else 0  # OpenCV rounds, Pillow truncates
    return cv2.transform(image, matrix)


def hue(image: np.ndarray, turns: float) -> np.ndarray:
    """Turns the colour circle by ``turns`` (1 is the whole circle), cut to 1/255 towards 0."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(int(turns * 255) % 256)  # wraps around, as the circle does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def gray(image: np.ndarray) -> np.ndarray:
    """Luma in all three channels."""
    return cv2.transform(image, _GRAY)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with a kernel of 9 pixels, mirrored at the border without its edge pixel."""
    return cv2.GaussianBlur(image, (9, 9), sigma, borderType=cv2.BORDER_REFLECT_101)


def solarize(image: np.ndarray) -> np.ndarray:
    """Inverts levels of 128 and above."""
    return cv2.LUT(image, _SOLARIZED)


def _blend_table(reference: int, factor: float) -> np.ndarray:
    table = reference + np.float32(factor) * (_LEVELS - reference)
    return np.minimum(np.maximum(table, 0), 255).astype(np.uint8)


_OPERATIONS = (brightness, contrast, saturation, hue)
