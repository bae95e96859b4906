"""AmsterTime: photographs of places in Amsterdam from archives, and of today."""

import dataclasses
import os

from dinov3_jax.data.benchmarks.images import Images, list_images, open_root
from dinov3_jax.data.record import SourceError

LAYOUT = """wanted
  old/NUMBER.jpg and new/NUMBER.png, both of the place NUMBER
The data set is published at 4TU.ResearchData as AmsterTime."""


@dataclasses.dataclass(frozen=True)
class AmsterTime:
    old: Images
    new: Images  # of the same places in the same order


def open_amstertime(path: str) -> AmsterTime:
    """The benchmark in folder ``path``; ``SourceError`` for a place with one picture alone."""
    root = open_root(path, ("old", "new"), LAYOUT)
    old, new = (list_images(root / name) for name in ("old", "new"))
    places = [{os.path.splitext(file)[0]: file for file in images.files} for images in (old, new)]
    alone = sorted(places[0].keys() ^ places[1].keys())
    if alone:
        raise SourceError(
            f"{len(alone)} place(s) of {root} are in one of old/ and new/ alone, {alone[0]} among "
            f"them; {LAYOUT}"
        )
    order = sorted(places[0])
    return AmsterTime(
        *(
            Images(images.root, tuple(files[place] for place in order))
            for images, files in zip((old, new), places)
        )
    )
