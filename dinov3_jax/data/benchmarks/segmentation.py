"""Images with a class for every pixel: ADE20k, Cityscapes, VOC 2012, and folders of one's own."""

import dataclasses
import os

import numpy as np
from PIL import Image

from dinov3_jax.data.benchmarks.files import listed, read_lines
from dinov3_jax.data.folder import SUFFIXES
from dinov3_jax.data.record import SourceError
from dinov3_jax.data.video import read_frame

IGNORED = 255  # the label of a pixel without a class

CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
VOC12 = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa",
    "train", "tv monitor",
)  # fmt: skip

LAYOUTS = """\
  ADE20k      images/{training,validation}/NAME.jpg, annotations/{training,validation}/NAME.png
              (the "ADEChallengeData2016" archive of the MIT scene parsing benchmark)
  Cityscapes  leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png,
              gtFine/{train,val}/CITY/NAME_gtFine_labelTrainIds.png
              (from the Cityscapes web page; train ids are made by its scripts)
  VOC 2012    JPEGImages/NAME.jpg, SegmentationClass/NAME.png,
              ImageSets/Segmentation/{train,val}.txt (the VOC 2012 trainval archive)
  your own    images/{train,val}/NAME.jpg (or .png ...), masks/{train,val}/NAME.png, classes.txt:
              class names, one a line; a mask holds line numbers from 0, and 255 for no class"""


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentationSet:
    """Images and masks of one split, read one at a time."""

    images: tuple[str, ...]  # paths
    masks: tuple[str, ...]
    classes: tuple[str, ...]  # names, by label
    zero_ignored: bool  # stored 0 is no class, and stored k is the label k - 1

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(pixels uint8 [H, W, 3], labels uint8 [H, W]: a class or ``IGNORED``).

        Raises ``SourceError`` for a file that cannot be read, a mask of another size, one of
        colours, and a label that is no class.
        """
        image, labels = read_frame(self.images[index]), _stored(self.masks[index])
        if image.shape[:2] != labels.shape:
            sizes = " and ".join(f"{h} x {w}" for h, w in (image.shape[:2], labels.shape))
            raise SourceError(
                f"{self.images[index]} and its mask have {sizes} pixels, wanted the same; the "
                "image is turned as its EXIF block says, the mask is not"
            )
        if self.zero_ignored:
            labels = zero_ignored(labels)
        found = np.unique(labels)
        wrong = found[(found >= len(self.classes)) & (found != IGNORED)]
        if wrong.size:
            shift = " (stored values less 1)" if self.zero_ignored else ""
            raise SourceError(
                f"{self.masks[index]} has the labels {wrong.tolist()}{shift}, wanted 0 to "
                f"{len(self.classes) - 1} or {IGNORED}; number the classes so, or add their names"
            )
        return image, labels


def zero_ignored(labels: np.ndarray) -> np.ndarray:
    """uint8: 0 and 255 -> ``IGNORED``, the others one less."""
    return np.where(labels == IGNORED, IGNORED, labels - np.uint8(1)).astype(np.uint8)


def open_segmentation(path: str) -> tuple[SegmentationSet, SegmentationSet]:
    """(training, validation) of the data set in the folder ``path``, in one of ``LAYOUTS``.

    Which one is told by its folders; of ADE20k the whole folders are taken, which are the
    published lists. Raises ``SourceError`` for another layout, and naming masks that are missing.
    """
    root = os.path.abspath(os.path.expanduser(path))
    there = lambda *names: os.path.isdir(os.path.join(root, *names))  # noqa: E731
    if there("images", "training"):
        classes = tuple(str(i) for i in range(1, 151))  # by the number that masks store
        return _both(root, _folders, ("training", "validation"), "annotations", classes, True)
    if there("leftImg8bit"):
        return _both(root, _cityscapes, ("train", "val"), "gtFine", CITYSCAPES, False)
    if there("JPEGImages"):
        return _both(root, _voc12, ("train", "val"), "SegmentationClass", VOC12, False)
    if there("images", "train"):
        names = read_lines(os.path.join(root, "classes.txt"), "class names, one a line")
        if not 1 <= len(names) <= IGNORED:
            raise SourceError(f"{root}/classes.txt has {len(names)} classes, wanted 1 to {IGNORED}")
        return _both(root, _folders, ("train", "val"), "masks", tuple(names), False)
    raise SourceError(f"no segmentation data in {root}; wanted one of these layouts:\n{LAYOUTS}")


def _both(root, pairs, splits, masks, classes, zero_ignored):
    made = []
    for split in splits:
        images, labels = pairs(root, split, masks)
        missing = [name for name in labels if not os.path.exists(name)]
        if missing:
            raise SourceError(
                f"{len(missing)} of {len(labels)} masks are missing, the first is {missing[0]}"
            )
        if not images:
            raise SourceError(f"no images of the split {split} in {root}; wanted\n{LAYOUTS}")
        made.append(SegmentationSet(tuple(images), tuple(labels), classes, zero_ignored))
    return tuple(made)


def _folders(root, split, masks):
    folder = os.path.join(root, "images", split)
    names = [name for name in listed(folder, LAYOUTS) if name.lower().endswith(SUFFIXES)]
    stems = [os.path.splitext(name)[0] for name in names]
    return (
        [os.path.join(folder, name) for name in names],
        [os.path.join(root, masks, split, f"{stem}.png") for stem in stems],
    )


def _cityscapes(root, split, masks):
    folder, end = os.path.join(root, "leftImg8bit", split), "_leftImg8bit.png"
    names = [
        os.path.join(city, name.removesuffix(end))
        for city in listed(folder, LAYOUTS)
        for name in listed(os.path.join(folder, city), LAYOUTS)
        if name.endswith(end)
    ]
    truth = "_gtFine_labelTrainIds.png"
    return (
        [os.path.join(folder, name + end) for name in names],
        [os.path.join(root, masks, split, name + truth) for name in names],
    )


def _voc12(root, split, masks):
    path = os.path.join(root, "ImageSets", "Segmentation", f"{split}.txt")
    names = read_lines(path, "names of images, one a line")
    return (
        [os.path.join(root, "JPEGImages", f"{name}.jpg") for name in names],
        [os.path.join(root, masks, f"{name}.png") for name in names],
    )


def _stored(path):
    """uint8 [H, W]; of a palette the numbers, not the colours."""
    try:
        with Image.open(path) as image:
            stored = np.array(image)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    if stored.ndim != 2 or stored.dtype == bool or stored.max(initial=0) > IGNORED:
        raise SourceError(
            f"{path} is {stored.dtype} {list(stored.shape)} up to {stored.max(initial=0)}; wanted "
            "one number of 8 bits a pixel: the class, not its colour"
        )
    return stored.astype(np.uint8)
