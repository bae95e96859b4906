"""Frames of a video and the mask of its first one -> masks of the others."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.tracking.propagation import Propagation, propagate

UPSAMPLES = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}
Extract = Callable[[np.ndarray], dict[str, np.ndarray]]


def track(
    frames: Iterable[np.ndarray],
    mask: np.ndarray,
    extract: Extract,
    *,
    short_side: int,
    stride: int,
    batch: int,
    how: Propagation,
    upsample: str,
) -> Iterator[np.ndarray]:
    """Masks int16 [H, W] of the frames after the first, with the numbers of ``mask``.

    Args:
      frames: uint8 [H, W, 3], in order; they are read a batch ahead.
      mask: int [H, W] of the first one; positive numbers are objects.
      extract: a ``features.extract.extractor`` of patch tokens; ``stride`` is its model's.
      short_side: pixels to which frames are scaled first; see ``scaled_size``.
      batch: frames that go through the model at once.
      upsample: of the patches' labels to pixels, "bilinear" (DINOv3, appendix D.5) or "nearest".

    Raises ``SourceError`` for a frame of another size than the mask.
    """
    if upsample not in UPSAMPLES:
        raise ConfigError(f"upsample is {upsample!r}, wanted {' or '.join(UPSAMPLES)}")
    height, width = scaled_size(*mask.shape, short_side=short_side, stride=stride)
    numbers = np.unique(mask[mask > 0])
    labels = patch_labels(mask, numbers, height // stride, width // stride)
    tokens = _tokens(_scaled(frames, mask.shape, (width, height)), extract, batch)
    for found in propagate(tokens, labels, how):
        yield decide(found, numbers, *mask.shape, upsample=upsample)


def scaled_size(height: int, width: int, *, short_side: int, stride: int) -> tuple[int, int]:
    """(H, W): the short side to ``short_side`` pixels, then both up to a multiple of ``stride``."""
    if short_side < 1:
        raise ConfigError(f"short_side is {short_side} pixels, wanted at least 1")
    short = min(height, width)
    scaled = [-(-side * short_side // (short * stride)) * stride for side in (height, width)]
    return scaled[0], scaled[1]


def patch_labels(mask: np.ndarray, numbers: np.ndarray, h: int, w: int) -> np.ndarray:
    """float32 [h, w, 1 + objects]: the share of a patch's pixels that each object has.

    Background comes first, then the objects ``numbers``, in that order.
    """
    shares = [_resize(mask == number, h, w, Image.Resampling.BOX) for number in numbers]
    background = 1 - np.sum(shares, axis=0) if shares else np.ones((h, w), np.float32)
    return np.clip(np.stack([background, *shares], axis=-1), 0, 1).astype(np.float32)


def decide(
    labels: np.ndarray, numbers: np.ndarray, height: int, width: int, *, upsample: str
) -> np.ndarray:
    """Labels of patches [h, w, 1 + objects] -> the number at each pixel, int16 [height, width].

    Each label map is scaled to pixels and stretched to 0..1 over the frame, background too; the
    largest wins, the first among equals. A map that is the same everywhere becomes 0.
    """
    best = np.zeros((height, width), np.int16)
    highest = np.zeros((height, width), np.float32)
    for number, label in zip((0, *numbers), np.moveaxis(labels, -1, 0)):
        label = _resize(label, height, width, UPSAMPLES[upsample])
        low, high = label.min(), label.max()
        label = (label - low) / (high - low) if high > low else np.zeros_like(label)
        better = label > highest
        best[better], highest[better] = number, label[better]
    return best


def _scaled(frames, shape, size):
    """Frames of ``shape`` (H, W), one after another, scaled to ``size`` (W, H)."""
    for i, frame in enumerate(frames):
        if frame.shape[:2] != shape:
            raise SourceError(
                f"frame {i} has {frame.shape[0]} x {frame.shape[1]} pixels, the mask of the first "
                f"frame {shape[0]} x {shape[1]}; they must be of one size"
            )
        yield np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def _tokens(frames, extract, batch):
    waiting = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == batch:
            yield from extract(np.stack(waiting))["patch_tokens"]
            waiting.clear()
    if waiting:
        yield from extract(np.stack(waiting))["patch_tokens"]


def _resize(values, height, width, method):
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((width, height), method))
