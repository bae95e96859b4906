"""One image as a shard stores it: a msgpack map, and what is known of its pixels.

The map has ``k`` 16-byte blake2b of the image bytes, ``h`` and ``w`` pixels as stored, ``img``
encoded bytes, ``s`` id, ``y`` label or nil.
"""

import dataclasses
import hashlib
import io
from typing import NamedTuple

import cv2
import msgpack
import numpy as np
import simplejpeg
from PIL import Image

from dinov3_jax.data.crops import resize
from dinov3_jax.data.decode import decode
from dinov3_jax.data.record import Record

FIELDS = {"k": "blake2b-128", "h": "px", "w": "px", "img": "bytes", "s": "id", "y": "int"}
COLUMNS = ("id", "label", "height", "width", "bytes", "hash")  # of records, beside their shard
_QUALITY = 90  # of images that are shrunk, where no quality is asked for


@dataclasses.dataclass(frozen=True)
class Recode:
    """How images are encoded anew; None twice: they stay as they are.

    longest  pixels; an image whose longest side is above it is shrunk to it and becomes a JPEG.
    quality  1..100 of these JPEGs (None: 90). If it is given, all images become JPEGs of it, but
             for a JPEG that is already small enough in pixels and would not get fewer bytes.
    """

    longest: int | None = None
    quality: int | None = None

    def __post_init__(self):
        if self.longest is not None and self.longest < 1:
            raise ValueError(f"longest is {self.longest}, wanted at least 1 pixel")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}, wanted 1..100")


class Stored(NamedTuple):
    data: bytes  # the msgpack map
    label: int | None
    height: int
    width: int
    bytes: int  # of the encoded image
    hash: str  # hex, of the encoded image
    mean: np.ndarray  # float64 [3], RGB in 0..1
    square: np.ndarray  # float64 [3], mean of squares


def store(record: Record, recode: Recode) -> Stored:
    """Raises ValueError for an image that cannot be read as a whole.

    Encoded images are stored as they are unless ``recode`` says otherwise, pixels as PNG.
    """
    pixels = decode(record.image)  # [h, w, 3]
    image = _encode(record.image, pixels, recode)
    try:
        with Image.open(io.BytesIO(image)) as header:
            width, height = header.size
    except OSError as error:  # Pillow's for what only the other decoder knows
        raise ValueError(f"unreadable header: {error}") from error
    digest = hashlib.blake2b(image, digest_size=16)
    fields = {
        "k": digest.digest(),
        "h": height,
        "w": width,
        "img": image,
        "s": record.id,
        "y": record.label,
    }
    mean, deviation = (x[:, 0] / 255 for x in cv2.meanStdDev(pixels))
    return Stored(
        data=msgpack.Packer().pack(fields),
        label=record.label,
        height=height,
        width=width,
        bytes=len(image),
        hash=digest.hexdigest(),
        mean=mean,
        square=mean**2 + deviation**2,
    )


def _encode(image: bytes | np.ndarray, pixels: np.ndarray, recode: Recode) -> bytes:
    height, width = pixels.shape[:2]
    scale = 1.0 if recode.longest is None else recode.longest / max(height, width)
    if scale < 1:
        small = resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
        return _jpeg(small, recode.quality or _QUALITY)
    if isinstance(image, np.ndarray):
        image = _png(image)
    if recode.quality is None:
        return image
    jpeg = _jpeg(pixels, recode.quality)
    return image if image[:2] == b"\xff\xd8" and len(image) <= len(jpeg) else jpeg


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    return simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420")


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
