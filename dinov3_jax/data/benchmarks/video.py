"""Clips with masks of objects: one's own, DAVIS 2017, YouTube-VOS, MOSE."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from dinov3_jax.data.benchmarks.files import read_lines
from dinov3_jax.data.record import SourceError
from dinov3_jax.data.video import list_frames, read_frame

VOID = -1  # of a mask: pixels that no score counts
LAYOUT = """wanted
  CLIP/frames/*.jpg and CLIP/masks/*.png, a mask named as its frame, for the first one at least; or
  JPEGImages/480p/CLIP/*.jpg, Annotations/480p/CLIP/*.png and ImageSets/2017/SPLIT.txt, as DAVIS
  2017 is laid out (from davischallenge.org); or
  SPLIT/JPEGImages/CLIP/*.jpg and SPLIT/Annotations/CLIP/*.png, as YouTube-VOS and MOSE are laid out
  (from their project pages; only their training split has all masks)"""


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames and masks of one video, read when asked for."""

    name: str
    frames: tuple[str, ...]  # files, in order
    masks: tuple[str | None, ...]  # of each frame; the first has one

    def __len__(self) -> int:
        return len(self.frames)

    def frame(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3]; ``SourceError`` where it cannot be read."""
        return read_frame(self.frames[index])

    def mask(self, index: int) -> np.ndarray:
        """int16 [H, W]; see ``read_mask``."""
        file = self.masks[index]
        if file is None:
            raise ValueError(f"frame {index} of {self.name} has no mask")
        return read_mask(file)


def read_mask(file: str) -> np.ndarray:
    """Numbers of objects int16 [H, W]: 0 is background, ``VOID`` is not known.

    A PNG with a palette holds numbers, 255 being ``VOID``; in one of grey levels each level but 0
    is an object. Raises ``SourceError`` for colours, and for what cannot be read.
    """
    try:
        with Image.open(file) as image:
            image.load()
            kind, mode, numbers = image.format, image.mode, np.array(image)
    except (OSError, UnidentifiedImageError) as error:
        raise SourceError(f"mask {file} cannot be read: {error}") from error
    if kind != "PNG" or mode not in ("P", "L", "1"):
        raise SourceError(
            f"mask {file} is a {kind} of mode {mode}; wanted a PNG with a palette, or of 8-bit "
            "grey levels, with the number of the object at each pixel, 0 for background"
        )
    numbers = numbers.astype(np.int16)
    return np.where(numbers == 255, VOID, numbers).astype(np.int16) if mode == "P" else numbers


def open_clips(path: str, split: str) -> tuple[Clip, ...]:
    """The clips below ``path``, in the order of their list or their names.

    ``split`` names the list of DAVIS (val), the folder of YouTube-VOS and MOSE (train); a folder of
    one's own has none. Raises ``SourceError`` for another layout, a clip without a mask of its
    first frame, and a mask without a frame.
    """
    root = os.path.abspath(os.path.expanduser(path))
    lists = os.path.join(root, "ImageSets", "2017")
    if os.path.isdir(lists):
        file = os.path.join(lists, f"{split}.txt")
        if not os.path.isfile(file):
            raise SourceError(f"there is no {file}; give another split, as train or val")
        names = read_lines(file, "names of clips, one a line")
        if not names:
            raise SourceError(f"{file} lists no clip")
        where = [os.path.join(root, kind, "480p", "{}") for kind in ("JPEGImages", "Annotations")]
    elif os.path.isdir(os.path.join(root, split, "JPEGImages")):
        names = _folders(os.path.join(root, split, "JPEGImages"))
        where = [os.path.join(root, split, kind, "{}") for kind in ("JPEGImages", "Annotations")]
    else:
        names = [n for n in _folders(root) if os.path.isdir(os.path.join(root, n, "frames"))]
        if not names:
            raise SourceError(f"no clips (split {split!r}) in {root}, {LAYOUT}")
        where = [os.path.join(root, "{}", kind) for kind in ("frames", "masks")]
    return tuple(_clip(name, *(folder.replace("{}", name) for folder in where)) for name in names)


def _clip(name: str, images: str, masks: str) -> Clip:
    for folder in (images, masks):
        if not os.path.isdir(folder):
            raise SourceError(f"clip {name}: there is no folder {folder}, {LAYOUT}")
    frames = list_frames(images)
    found = {_stem(file): file for file in list_frames(masks)}
    clip = Clip(name, tuple(frames), tuple(found.pop(_stem(file), None) for file in frames))
    if found:
        raise SourceError(
            f"clip {name}: {min(found.values())} has no frame of its name in {images}"
        )
    if clip.masks[0] is None:
        raise SourceError(f"clip {name}: its first frame {frames[0]} has no mask in {masks}")
    return clip


def _stem(file):
    return os.path.splitext(os.path.basename(file))[0]


def _folders(root: str) -> Sequence[str]:
    if not os.path.isdir(root):
        raise SourceError(f"there is no folder {root}, {LAYOUT}")
    return sorted(n for n in os.listdir(root) if os.path.isdir(os.path.join(root, n)))
