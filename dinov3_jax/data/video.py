"""Frames of a video, one after another: a folder of images, a GIF, or a video file."""

import logging
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from dinov3_jax.data.decode import decode
from dinov3_jax.data.folder import SUFFIXES
from dinov3_jax.data.record import SourceError

_log = logging.getLogger(__name__)
_COUNTED = (".avi", ".m4v", ".mov", ".mp4")  # these store how many frames they have


class Video(NamedTuple):
    frames: Iterator[np.ndarray]  # uint8 [H, W, 3], all of one size, read when asked for
    rate: float  # frames a second; 10 where it is not known


def open_video(path: str) -> Video:
    """Raises ``SourceError``, also later from ``frames``, for what cannot be read or has no frame.

    A folder's images come in the order of ``list_frames``. Video files are read by OpenCV, with the
    codecs it was built with; one of which less than half can be read is refused (``check_whole``).
    """
    place = os.path.expanduser(path)
    if os.path.isdir(place):
        files = list_frames(place)
        return Video(_same_size((read_frame(file) for file in files), path), 10.0)
    if not os.path.isfile(place):
        raise SourceError(f"there is no video {path}; correct the path")
    if place.lower().endswith(".gif"):
        return Video(_same_size(_gif_frames(place), path), _gif_rate(place))
    capture = cv2.VideoCapture(place)
    if not capture.isOpened():
        raise SourceError(
            f"{path} is no video that OpenCV can read; convert it to MP4 (H.264), or give a folder "
            "of its frames"
        )
    rate = capture.get(cv2.CAP_PROP_FPS)
    return Video(_same_size(_captured(capture, path), path), rate if 0 < rate < 1000 else 10.0)


def list_frames(folder: str) -> list[str]:
    """Image files directly in ``folder``, 2.jpg before 10.jpg; ``SourceError`` if there is none."""
    names = [
        name
        for name in os.listdir(folder)
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    if not names:
        raise SourceError(f"no frames in {folder}: wanted images that end in {', '.join(SUFFIXES)}")
    return [os.path.join(folder, name) for name in sorted(names, key=_numbers_as_numbers)]


def read_frame(file: str) -> np.ndarray:
    """uint8 [H, W, 3]; ``SourceError`` that names a file that cannot be read."""
    try:
        with open(file, "rb") as opened:
            return decode(opened.read())
    except (OSError, ValueError) as error:
        raise SourceError(f"frame {file} cannot be read: {error}") from error


def check_whole(capture: cv2.VideoCapture, path: str, read: int) -> None:
    """``ValueError`` if less than half of the frames that a video file stores could be ``read``;
    a warning in the log below nine in ten.

    A file that is damaged or cut off ends where that begins. The count of one that was cut without
    being encoded again is too high, hence the margins; a format without a count says nothing.
    """
    stored = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if not path.lower().endswith(_COUNTED) or read >= 0.9 * stored:
        return
    text = f"only {read} of {stored} frames can be read; get it again, or encode it again"
    if read < 0.5 * stored:
        raise ValueError(text)
    _log.warning("%s: %s", path, text)


def _numbers_as_numbers(name):
    parts = re.split(r"(\d+)", name)  # text and numbers in turns
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _gif_rate(file):
    try:
        with Image.open(file) as image:
            return 1000 / (image.info.get("duration", 0) or 100)  # milliseconds a frame
    except (OSError, UnidentifiedImageError) as error:
        raise SourceError(f"{file} cannot be read: {error}") from error


def _gif_frames(file):
    with Image.open(file) as image:
        for frame in ImageSequence.Iterator(image):
            yield np.array(frame.convert("RGB"))


def _captured(capture, path):
    count = 0
    try:
        while True:
            there, frame = capture.read()
            if not there:
                break
            count += 1
            yield np.ascontiguousarray(frame[..., ::-1])  # OpenCV's are BGR
        check_whole(capture, path, count)
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from error
    finally:
        capture.release()


def _same_size(frames, path):
    shape = None
    for i, frame in enumerate(frames):
        shape = shape or frame.shape
        if frame.shape != shape:
            raise SourceError(
                f"{path}: frame {i} has {frame.shape[0]} x {frame.shape[1]} pixels, the first "
                f"{shape[0]} x {shape[1]}; scale them to one size"
            )
        yield frame
    if shape is None:
        raise SourceError(f"{path} has no frame")
