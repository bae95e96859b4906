"""Images with a mask of their foreground: one's own, and PASCAL VOC 2012."""

import dataclasses
import os

import numpy as np
from PIL import Image, UnidentifiedImageError

from dinov3_jax.data.benchmarks.files import read_lines
from dinov3_jax.data.record import SourceError
from dinov3_jax.data.video import list_frames, read_frame

LAYOUT = """wanted
  images/*.jpg and masks/*.png, a mask named as its image: grey levels, 255 foreground, 0 background
  and shares between; or
  JPEGImages/, SegmentationClass/*.png and ImageSets/Segmentation/SPLIT.txt, as VOC2012 is laid out
  (from the project page of PASCAL VOC)"""


@dataclasses.dataclass(frozen=True)
class ForegroundImages:
    """Images and masks by number, read when asked for."""

    images: tuple[str, ...]  # files
    masks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, 3], and alpha float32 [H, W]: the share of foreground, 0..1.

        Of grey levels, alpha is the share of 255. Of a palette, 0 is background, 255 not known,
        which is NaN here (outlines in VOC), and any other number foreground. Raises
        ``SourceError`` for what cannot be read, another kind of mask, and one of another size.
        """
        image, alpha = read_frame(self.images[index]), _read_alpha(self.masks[index])
        if alpha.shape != image.shape[:2]:
            raise SourceError(
                f"mask {self.masks[index]} has {alpha.shape[0]} x {alpha.shape[1]} pixels, its "
                f"image {image.shape[0]} x {image.shape[1]}; they must be of one size"
            )
        return image, alpha


def open_foreground(path: str, split: str) -> ForegroundImages:
    """The images below ``path`` in the order of their names; ``split`` names a list of VOC (val).

    Raises ``SourceError`` for another layout, an image without a mask and a mask without an image.
    """
    root = os.path.abspath(os.path.expanduser(path))
    lists = os.path.join(root, "ImageSets", "Segmentation")
    if os.path.isdir(lists):
        file = os.path.join(lists, f"{split}.txt")
        if not os.path.isfile(file):
            raise SourceError(f"there is no {file}; give another split, as train or val")
        names = read_lines(file, "names of images, one a line")
        images = [os.path.join(root, "JPEGImages", f"{name}.jpg") for name in names]
        masks = [os.path.join(root, "SegmentationClass", f"{name}.png") for name in names]
        for name in images + masks:
            if not os.path.isfile(name):
                raise SourceError(f"{name} is listed in {file} and is not there")
        if not names:
            raise SourceError(f"{file} lists no image")
        return ForegroundImages(tuple(images), tuple(masks))
    folders = [os.path.join(root, name) for name in ("images", "masks")]
    if not all(map(os.path.isdir, folders)):
        raise SourceError(f"no images with masks in {root}, {LAYOUT}")
    images, masks = ({_stem(file): file for file in list_frames(folder)} for folder in folders)
    if images.keys() != masks.keys():
        lone = min(images.keys() ^ masks.keys())
        there, missing = ("an image", "mask") if lone in images else ("a mask", "image")
        raise SourceError(f"{root} has {there} and no {missing} named {lone}")
    return ForegroundImages(tuple(images.values()), tuple(masks[name] for name in images))


def _stem(file):
    return os.path.splitext(os.path.basename(file))[0]


def _read_alpha(file):
    try:
        with Image.open(file) as image:
            image.load()
            mode, values = image.mode, np.array(image)
    except (OSError, UnidentifiedImageError) as error:
        raise SourceError(f"mask {file} cannot be read: {error}") from error
    if mode == "P":
        return np.where(values == 255, np.nan, values > 0).astype(np.float32)
    if mode not in ("L", "1"):
        raise SourceError(
            f"mask {file} has mode {mode}; wanted 8-bit grey levels (255 foreground, 0 background) "
            "or a palette"
        )
    if mode == "L" and values.max() == 1:
        raise SourceError(f"mask {file} has grey levels 0 and 1; foreground is 255: scale it")
    return values.astype(np.float32) / (255 if mode == "L" else 1)
