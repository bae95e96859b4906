"""A folder of image files, at any depth, or several folders read as one."""

import dataclasses
import glob
import os

import numpy as np

from dinov3_jax.data.record import Record, SourceError, fingerprint

SUFFIXES = (
    ".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm",
    ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSource:
    """Files in sorted order; a record's id is its path below the folders' common parent."""

    root: str
    files: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    fingerprint: str

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        name = self.files[index]
        with open(os.path.join(self.root, name), "rb") as file:
            data = file.read()
        return Record(data, name, None if self.labels is None else int(self.labels[index]))


def open_folders(path: str, *, labelled: bool) -> FolderSource:
    """Image files below ``path`` (several folders joined by ","), hidden ones left out.

    labelled: the class of an image is the name of its parent folder; equal names in several
    folders are one class, and labels number the sorted names.
    """
    # A comma may also be part of a name.
    parts = [path] if os.path.isdir(os.path.expanduser(path)) else path.split(",")
    folders = [os.path.abspath(os.path.expanduser(part.strip())) for part in parts]
    if not path.strip():
        raise SourceError("no image folder is given; set data.path to one")
    found = []
    for folder in folders:
        files = _list_images(folder)
        if not files:
            raise SourceError(
                f"no images in {folder}: wanted at least one file, at any depth, that ends in "
                f"{', '.join(SUFFIXES)} and is not hidden; correct the path"
            )
        found.append(files)
    root = os.path.commonpath(folders)
    names = tuple(os.path.relpath(name, root) for files in found for name in files)
    if len(set(names)) < len(names):
        raise SourceError(f"data.path names a folder twice, or one inside another: {path}")
    labels, classes = None, None
    if labelled:
        parents = [os.path.basename(os.path.dirname(os.path.join(root, name))) for name in names]
        classes = tuple(sorted(set(parents)))
        number = {name: i for i, name in enumerate(classes)}
        labels = np.array([number[name] for name in parents], np.int32)
    return FolderSource(root, names, labels, classes, fingerprint(names))


def open_files(pattern: str) -> FolderSource:
    """Image files that ``pattern`` matches, as ``glob`` does (``**`` for any depth), unlabelled."""
    found = glob.glob(os.path.abspath(os.path.expanduser(pattern)), recursive=True)
    files = sorted(name for name in found if name.lower().endswith(SUFFIXES))
    if not files:
        raise SourceError(
            f"no images match {pattern}: wanted at least one file that ends in "
            f"{', '.join(SUFFIXES)}; correct the pattern (in quotes, against the shell)"
        )
    root = os.path.commonpath([os.path.dirname(name) for name in files])
    names = tuple(os.path.relpath(name, root) for name in files)
    return FolderSource(root, names, None, None, fingerprint(names))


def _list_images(folder: str) -> list[str]:
    """Sorted paths of the image files below ``folder``; links to folders are followed once."""
    if not os.path.isdir(folder):
        raise SourceError(f"there is no folder {folder}; correct the path")
    images, seen = [], set()
    for place, subfolders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back up
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        images += [
            os.path.join(place, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(images)


def _raise(error: OSError):
    raise error
