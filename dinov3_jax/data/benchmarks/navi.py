"""NAVI: photographs of objects with depth and the pose of the camera.

A depth PNG holds disparity: the depth in mm is 655350 / value, and 0 means none. A pose is a
quaternion q (w, x, y, z) and a translation t in mm that take points of the object to the camera,
whose axes point right, down and into the image. Source: Jampani et al. (NeurIPS 2023).
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from dinov3_jax.data.benchmarks.images import open_root, read_image
from dinov3_jax.data.record import SourceError

LAYOUT = """wanted
  OBJECT/wild_set/annotations.json, images/NNN.jpg and depth/NNN.png of each OBJECT
The data set comes from its project page, navidataset.github.io."""


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A photograph with its camera: camera = rotation @ object + translation."""

    scene: str  # folder
    file: str
    rotation: np.ndarray  # float64 [3, 3]
    translation: np.ndarray  # float64 [3], metres
    focal: float  # pixels of the photograph
    size: tuple[int, int]  # height and width of the photograph

    def pixels(self) -> np.ndarray:
        """uint8 [h, w, 3]."""
        file = os.path.join(self.scene, "images", self.file)
        image = read_image(file)
        if image.shape[:2] != self.size:
            raise SourceError(
                f"{file} is {list(image.shape[:2])}, wanted {list(self.size)}, as annotations.json "
                "says: its focal length counts pixels"
            )
        return image

    def depth(self) -> np.ndarray:
        """float32 [h, w], metres along the axis of the camera; 0 where unknown."""
        file = os.path.join(self.scene, "depth", os.path.splitext(self.file)[0] + ".png")
        try:
            with Image.open(file) as image:
                disparity = np.asarray(image)
        except OSError as error:
            raise SourceError(f"depth {file} cannot be read ({error}); {LAYOUT}") from error
        if disparity.shape != self.size:
            raise SourceError(
                f"{file} is {list(disparity.shape)}, wanted {list(self.size)}, one 16-bit number a "
                "pixel, as annotations.json says"
            )
        depth = np.zeros(self.size, np.float32)
        np.divide(655.35, disparity, out=depth, where=disparity > 0)  # metres
        return depth


def open_navi(path: str, *, scenes: str) -> dict[str, tuple[View, ...]]:
    """The views of each scene in folder ``path``, by its name below it: OBJECT/SCENE.

    ``scenes`` is a pattern of the names of scenes: "wild_set", "multiview*".
    """
    root = open_root(path, (f"*/{scenes}/annotations.json",), LAYOUT)
    found = {}
    for file in sorted(root.glob(f"*/{scenes}/annotations.json")):
        try:
            entries = json.loads(file.read_text())
            views = tuple(_view(file.parent, entry) for entry in entries)
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"{file}: {type(error).__name__} {error}; get it again") from error
        found[str(file.parent.relative_to(root))] = views
    return found


def _view(scene: Path, entry: dict) -> View:
    camera = entry["camera"]
    translation = np.array(camera["t"], np.float64) / 1000
    rotation = _rotation(np.array(camera["q"], np.float64))
    height, width = entry["image_size"]
    return View(
        scene=str(scene),
        file=entry["filename"],
        rotation=rotation,
        translation=translation,
        focal=float(camera["focal_length"]),
        size=(int(height), int(width)),
    )


def _rotation(q: np.ndarray) -> np.ndarray:
    if q.shape != (4,) or not np.linalg.norm(q) > 0:
        raise ValueError(f"q is {q}, wanted a quaternion w, x, y, z")
    w, *v = q / np.linalg.norm(q)
    v = np.array(v)
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross
