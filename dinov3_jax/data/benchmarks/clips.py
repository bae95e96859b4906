"""Labelled video clips in splits: class folders, or lists of paths and labels."""

import dataclasses
import os
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from dinov3_jax.data.folder import SUFFIXES
from dinov3_jax.data.record import SourceError
from dinov3_jax.data.video import check_whole, list_frames, read_frame

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
LAYOUT = """wanted
  train/CLASS/CLIP, test/CLASS/CLIP and, where there is one, val/CLASS/CLIP, a clip being a folder
  of frames (0001.jpg ..), an animated GIF, a video file or, of one frame, an image; or
  train.txt, test.txt and, where there is one, val.txt, each line the path of a clip, from the
  folder of the list, and its class, a number from 0 (UCF101, Something-Something v2 and
  Kinetics-400 come with lists of clips, on their project pages)"""


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
    """Clips by number, read when asked for."""

    paths: tuple[str, ...]
    labels: np.ndarray  # int32 [n], indices of ``ClipSplits.classes``

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def stills(self) -> bool:
        """Whether every clip is a single image."""
        moving = (".gif", *VIDEOS)
        return not any(os.path.isdir(x) or x.lower().endswith(moving) for x in self.paths)

    def frames(self, index: int, count: int) -> np.ndarray:
        """uint8 [count, h, w, 3], evenly spaced, the first and the last frame among them.

        A clip of fewer frames gives some of them again. Raises ``SourceError`` for a clip that
        cannot be read; of a damaged video that less than half (``check_whole``).
        """
        path = self.paths[index]
        try:
            found = _read(path, count)
        except (OSError, ValueError) as error:
            raise SourceError(
                f"clip {path} cannot be read ({error}); a score without it would be another one: "
                "get it again, or remove it"
            ) from error
        if len({frame.shape for frame in found}) > 1:
            raise SourceError(
                f"clip {path} has frames of {len({frame.shape for frame in found})} sizes, wanted "
                "one: make it again"
            )
        return np.stack(found)


class ClipSplits(NamedTuple):
    train: Clips
    val: Clips | None
    test: Clips
    classes: tuple[str, ...]  # of the training split


def open_clips(path: str) -> ClipSplits:
    """The splits below the folder ``path``; without a test, val is the test.

    Classes are numbered in the order of the sorted names of the training split's; of lists they
    are the numbers 0 to the largest in train, of which it may lack some. Raises ``SourceError`` for
    a split that is missing or empty, and for other classes.
    """
    root = os.path.abspath(os.path.expanduser(path))
    listed = os.path.isfile(os.path.join(root, "train.txt"))
    found = {}
    for name in ("train", "val", "test"):
        place = os.path.join(root, f"{name}.txt" if listed else name)
        if os.path.exists(place):
            found[name] = _read_list(place) if listed else _list_folders(place)
    if "train" not in found or len(found) == 1:
        raise SourceError(f"{root} has {', '.join(found) or 'no'} splits of clips, {LAYOUT}")
    if listed:
        # By number, so that "10" comes after "9"; a class that train lacks keeps its number.
        count = 1 + max(int(name) for name, _ in found["train"])
        classes = tuple(str(label) for label in range(count))
    else:
        classes = tuple(sorted({name for name, _ in found["train"]}))
    number = {name: i for i, name in enumerate(classes)}
    splits = {}
    for name, clips in found.items():
        strange = sorted({label for label, _ in clips} - set(number))
        if strange:
            raise SourceError(
                f"{name} has {len(strange)} class(es) that train lacks, {', '.join(strange[:3])} "
                f"among them; train has {len(classes)}: name classes alike in both"
            )
        labels = np.array([number[label] for label, _ in clips], np.int32)
        splits[name] = Clips(tuple(place for _, place in clips), labels)
    test = splits.pop("test", None) or splits.pop("val")
    return ClipSplits(splits["train"], splits.get("val"), test, classes)


def _list_folders(root):
    """(class, path of a clip), sorted."""
    clips = []
    for label in sorted(_visible(root)):
        folder = os.path.join(root, label)
        if not os.path.isdir(folder):
            raise SourceError(f"{folder} is no class folder, {LAYOUT}")
        clips += [(label, os.path.join(folder, name)) for name in sorted(_visible(folder))]
    if not clips:
        raise SourceError(f"no clips in {root}, {LAYOUT}")
    return clips


def _read_list(path):
    clips, folder = [], os.path.dirname(path)
    with open(path) as file:
        lines = [line.strip() for line in file]
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        place, _, label = line.rpartition(" ")
        if not place or not label.isdigit():
            raise SourceError(f"line {number} of {path} is {line!r}, wanted a path and a number")
        clips.append((str(int(label)), os.path.join(folder, place)))
    if not clips:
        raise SourceError(f"{path} is empty, wanted a path and a number on each line")
    return clips


def _visible(folder):
    return [name for name in os.listdir(folder) if not name.startswith(".")]


def _read(path, count):
    """``count`` frames, evenly spaced, of whatever ``path`` is."""
    if os.path.isdir(path):
        files = list_frames(path)
        return [read_frame(files[i]) for i in _spaced(len(files), count)]
    if path.lower().endswith(VIDEOS):
        return _video(path, count)
    if path.lower().endswith(".gif"):
        with Image.open(path) as image:
            frames = []
            for i in _spaced(getattr(image, "n_frames", 1), count):
                image.seek(i)
                frames.append(np.asarray(image.convert("RGB")))
        return frames
    if not path.lower().endswith(SUFFIXES):
        raise ValueError("it is no folder, GIF, image or video")
    return [read_frame(path)] * count


def _video(path, count):
    """Twice through the file: what it says of its length is often wrong, and so is seeking."""
    length, video = 0, cv2.VideoCapture(path)
    while video.grab():
        length += 1
    check_whole(video, path, length)
    chosen = _spaced(length, count)
    wanted, found = set(chosen), {}
    video = cv2.VideoCapture(path)
    for i in range(max(wanted) + 1):
        if not video.grab():
            raise ValueError(f"frame {i} of {length} is damaged")
        if i in wanted:
            there, frame = video.retrieve()
            if not there:
                raise ValueError(f"frame {i} of {length} is damaged")
            found[i] = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    return [found[i] for i in chosen]


def _spaced(length, count):
    if length == 0:
        raise ValueError("it has no frame")
    return np.linspace(0, length - 1, count).round().astype(int).tolist()
