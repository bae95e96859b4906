"""Image files of a benchmark by number, decoded when asked for."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from dinov3_jax.data.decode import decode
from dinov3_jax.data.folder import open_folders
from dinov3_jax.data.record import SourceError


@dataclasses.dataclass(frozen=True)
class Images:
    root: str
    files: tuple[str, ...]  # below ``root``

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 [h, w, 3]; ``SourceError`` that names a file that is missing or damaged."""
        return read_image(os.path.join(self.root, self.files[index]))


def read_image(path: str | os.PathLike) -> np.ndarray:
    """uint8 [h, w, 3]; ``SourceError`` that names a file that is missing or damaged."""
    try:
        return decode(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise SourceError(
            f"image {path} cannot be read ({error}); a score without it would be another one: get "
            "the file again"
        ) from error


def list_images(folder: str | os.PathLike) -> Images:
    """All image files below ``folder``, at any depth, sorted by path."""
    source = open_folders(str(folder), labelled=False)
    return Images(source.root, source.files)


def open_root(path: str, wanted: tuple[str, ...], layout: str) -> Path:
    """The folder ``path``; ``SourceError`` with its ``layout`` if one of ``wanted`` is not in it.

    An entry of ``wanted`` is a file, a folder or a pattern of either.
    """
    root = Path(path).expanduser().absolute()
    missing = [name for name in wanted if not any(root.glob(name))]
    if missing:
        there = "there is no such folder" if not root.is_dir() else "not found in it"
        raise SourceError(f"{root}: {there}: {', '.join(missing)}. {layout}")
    return root
