"""Maps over a patch grid drawn at the size of their image, uint8 [H, W, 3]."""

import numpy as np
from PIL import Image

from dinov3_jax.evals.page import ring
from dinov3_jax.evals.pictures import pca_rgb

UPSCALES = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}


def enlarge(colours: np.ndarray, height: int, width: int, *, upscale: str) -> np.ndarray:
    """Colours of patches uint8 [h, w, 3] -> [height, width, 3]."""
    drawn = Image.fromarray(np.ascontiguousarray(colours))
    return np.asarray(drawn.resize((width, height), UPSCALES[upscale]))


def overlay(image: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The image in grey under colours of its size, half and half."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    return np.round((grey + colours) / 2).astype(np.uint8)


def mark(image: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    """A ring around ``point``, (x, y) in [0, 1]."""
    drawn = Image.fromarray(image)
    ring(drawn, point)
    return np.asarray(drawn)


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures of one height with a white line between them."""
    line = np.full((len(left), max(2, left.shape[1] // 100), 3), 255, np.uint8)
    return np.concatenate([left, line, right], axis=1)


def pca_image(patch_tokens: np.ndarray, image: np.ndarray) -> Image.Image:
    """Three principal components of the patches of one image as colours, at its size.

    ``patch_tokens`` [N, D], row-major over a grid with the sides of ``image`` [H, W, 3] in small.
    """
    height, width = image.shape[:2]
    side = (height * width / len(patch_tokens)) ** 0.5  # pixels
    grid = np.asarray(patch_tokens).reshape(1, round(height / side), round(width / side), -1)
    return Image.fromarray(enlarge(pca_rgb(grid)[0], height, width, upscale="nearest"))
