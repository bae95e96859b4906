"""Images with a depth for every pixel: NYU, KITTI, and folders of one's own."""

import dataclasses
import os

import numpy as np
from PIL import Image

from dinov3_jax.data.benchmarks.files import listed, read_lines
from dinov3_jax.data.folder import SUFFIXES
from dinov3_jax.data.record import SourceError
from dinov3_jax.data.video import read_frame

LAYOUTS = """\
  NYU       nyu_train.txt, nyu_test.txt: lines "RGB DEPTH FOCAL", paths below the folder, depth as
            PNG of 16 bits in millimetres (the subset that the BTS depth project prepared)
  KITTI     kitti_eigen_train.txt, kitti_eigen_test.txt: lines "RGB DEPTH FOCAL", RGB below input/,
            DEPTH below gt_depth/, PNG of 16 bits in metres / 256 (raw data and annotated depth
            maps of the KITTI web page, the lists of the Eigen split)
  your own  images/{train,test}/NAME.jpg (or .png ...), depth/{train,test}/NAME.png of 16 bits (see
            the setting per_metre; 0: unknown) or NAME.npy, float metres (0, NaN, inf: unknown)"""

_KITTI = (352, 1216)  # rows, columns: the bottom, in the middle, of images of several sizes


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is published with a data set, in pixels (row, column) and metres."""

    crop: str  # what is scored: "none", "eigen", "garg"
    most: float  # metres, beyond which a depth is not scored
    box: tuple[int, int, int, int] | None  # top, left, bottom, right of what is trained on
    train_crop: tuple[int, int]


NYU = Protocol("eigen", 10.0, (45, 43, 472, 608), (416, 544))
KITTI = Protocol("garg", 80.0, None, (352, 704))
OWN = Protocol("none", 10.0, None, (416, 544))


@dataclasses.dataclass(frozen=True, eq=False)
class DepthSet:
    """Images and depths of one split, read one at a time."""

    images: tuple[str, ...]  # paths
    depths: tuple[str, ...]
    per_metre: float  # what a PNG stores for one metre
    protocol: Protocol
    window: tuple[int, int] | None  # of each image its bottom rows and middle columns

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(pixels uint8 [H, W, 3], metres float32 [H, W], 0 where unknown).

        Raises ``SourceError`` for a file that cannot be read or holds anything but depths, and for
        a depth of another size than its image.
        """
        image, depth = read_frame(self.images[index]), self._metres(self.depths[index])
        if image.shape[:2] != depth.shape:
            sizes = " and ".join(f"{h} x {w}" for h, w in (image.shape[:2], depth.shape))
            raise SourceError(
                f"{self.images[index]} and its depth have {sizes} pixels, wanted the same; the "
                "image is turned as its EXIF block says, the depth is not"
            )
        if self.window is None:
            return image, depth
        rows, columns = self.window
        top, left = len(image) - rows, (image.shape[1] - columns) // 2
        if top < 0 or left < 0:
            raise SourceError(
                f"{self.images[index]} has {image.shape[0]} x {image.shape[1]} pixels, wanted at "
                f"least {rows} x {columns}"
            )
        cut = (slice(top, None), slice(left, left + columns))
        return image[cut], depth[cut]

    def _metres(self, path):
        try:
            stored = np.load(path) if path.endswith(".npy") else _png(path)
        except (OSError, ValueError) as error:
            raise SourceError(f"{path} cannot be read: {error}") from error
        if stored.ndim != 2 or stored.dtype.kind not in "uif" or stored.dtype.itemsize == 1:
            raise SourceError(
                f"{path} is {stored.dtype} {list(stored.shape)}; wanted [H, W], a PNG of 16 bits "
                "or an .npy file of floats in metres"
            )
        depth = stored.astype(np.float32)
        if not path.endswith(".npy"):
            return depth / np.float32(self.per_metre)
        if (depth < 0).any():
            raise SourceError(f"{path} has depths down to {np.nanmin(depth)} m, wanted 0 or more")
        return np.where(np.isfinite(depth), depth, np.float32(0))


def open_depth(path: str, *, per_metre: float = 1000.0) -> tuple[DepthSet, DepthSet]:
    """(training, test) of the data set in the folder ``path``, in one of ``LAYOUTS``.

    ``per_metre``: what a PNG of one's own stores for one metre. Lines of a list whose depth is
    "None" are left out. Of KITTI's images, which differ in size, the bottom 352 rows and the middle
    1216 columns are taken, as is usual. Raises ``SourceError`` for another layout, and naming
    depths that are missing.
    """
    root = os.path.abspath(os.path.expanduser(path))
    there = lambda name: os.path.exists(os.path.join(root, name))  # noqa: E731
    if there("nyu_train.txt"):
        lists, folders, window = ("nyu_train.txt", "nyu_test.txt"), ("", ""), None
        protocol, per_metre = NYU, 1000.0
    elif there("kitti_eigen_train.txt"):
        lists = ("kitti_eigen_train.txt", "kitti_eigen_test.txt")
        folders, window, protocol, per_metre = ("input", "gt_depth"), _KITTI, KITTI, 256.0
    elif there("images/train"):
        if not per_metre > 0:
            raise SourceError(f"per_metre is {per_metre}, wanted a positive number")
        pairs = [_folder_pairs(root, split) for split in ("train", "test")]
        return _checked(root, pairs, per_metre, OWN, None)
    else:
        raise SourceError(f"no depth data in {root}; wanted one of these layouts:\n{LAYOUTS}")
    pairs = [_list_pairs(root, name, folders) for name in lists]
    return _checked(root, pairs, per_metre, protocol, window)


def _checked(root, pairs, per_metre, protocol, window):
    for images, depths in pairs:
        if not images:
            raise SourceError(f"a split of {root} has no images; wanted\n{LAYOUTS}")
        missing = [name for name in (*images, *depths) if not os.path.exists(name)]
        if missing:
            raise SourceError(f"{len(missing)} files are missing, the first is {missing[0]}")
    train, test = (
        DepthSet(tuple(images), tuple(depths), per_metre, protocol, window)
        for images, depths in pairs
    )
    return train, test


def _list_pairs(root, name, folders):
    path, images, depths = os.path.join(root, name), [], []
    for number, line in enumerate(read_lines(path, 'lines "RGB DEPTH FOCAL"'), 1):
        parts = line.split()
        if len(parts) not in (2, 3):
            raise SourceError(f"{path}, line {number}, is {line!r}; wanted RGB DEPTH FOCAL")
        if parts[1] == "None":
            continue
        # The published lists of NYU begin paths with a slash that means the data's own folder.
        image, depth = (
            os.path.join(root, folder, part.lstrip("/"))
            for folder, part in zip(folders, parts[:2], strict=True)
        )
        images.append(image)
        depths.append(depth)
    return images, depths


def _folder_pairs(root, split):
    folder, images, depths = os.path.join(root, "images", split), [], []
    for name in listed(folder, LAYOUTS):
        if name.lower().endswith(SUFFIXES):
            stem = os.path.join(root, "depth", split, os.path.splitext(name)[0])
            images.append(os.path.join(folder, name))
            depths.append(stem + (".npy" if os.path.exists(stem + ".npy") else ".png"))
    return images, depths


def _png(path):
    with Image.open(path) as image:
        return np.array(image)
