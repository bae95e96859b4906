"""Encoded image to RGB pixels."""

import io

import numpy as np
import simplejpeg
from PIL import Image

_ORIENTATION = 0x0112  # EXIF tag
_EXIF_SEARCH = 1 << 16  # bytes; a JPEG's EXIF block comes first


def decode(data: bytes | np.ndarray | Image.Image, *, enough: int = 0) -> np.ndarray:
    """RGB pixels uint8 [H, W, 3] of an encoded image (bytes), of Pillow's, or of pixels uint8
    [H, W(, 1|3|4)].

    Grey is repeated, CMYK and palettes are converted, of 16 bits the upper 8 are kept, alpha is
    composited on white, an animation gives its first picture, and EXIF orientation is applied.
    ``enough``: a JPEG may come at half its size or less as long as both sides keep at least that
    many pixels, which is quicker; 0 asks for full size.
    Raises ValueError for anything that is not a whole, readable image.
    """
    if isinstance(data, np.ndarray):
        return _from_array(data)
    if isinstance(data, Image.Image):
        return _from_pillow(data)
    if data[:2] == b"\xff\xd8":
        try:
            # Scales between a half and 1 take longer than full size: hence the factor.
            image = simplejpeg.decode_jpeg(
                data, "RGB", min_height=enough, min_width=enough, min_factor=2
            )
            return _orient(image, _jpeg_orientation(data))
        except ValueError:
            pass  # CMYK, or damaged: Pillow converts the first and judges the second
    return _with_pillow(data)


def _with_pillow(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _from_pillow(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise almost any type for a damaged file
        raise ValueError(f"unreadable image of {len(data)} bytes: {error}") from error


def _from_pillow(image: Image.Image) -> np.ndarray:
    orientation = image.getexif().get(_ORIENTATION, 1)
    image.load()
    return _orient(_to_rgb(image), orientation)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_to_rgb(np.asarray(image), image.mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _wide_to_rgb(pixels: np.ndarray, mode: str) -> np.ndarray:
    if mode == "F" or pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError(f"pixels of mode {mode!r} have no known range; store 8 or 16 bits")
    return np.repeat((pixels >> 8).astype(np.uint8)[..., None], 3, axis=-1)


def _from_array(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"pixels are {pixels.dtype} {list(pixels.shape)}, wanted uint8 [H, W] or "
            "[H, W, 1 | 3 | 4]"
        )
    if 0 in pixels.shape:
        raise ValueError(f"pixels are {list(pixels.shape)}, wanted at least one")
    if pixels.shape[2] == 4:
        return _to_rgb(Image.fromarray(pixels))
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _jpeg_orientation(data: bytes) -> int:
    if data.find(b"Exif\0\0", 0, _EXIF_SEARCH) < 0:
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:  # reads the header only
            return image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"unreadable EXIF block: {error}") from error


def _orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes the camera's EXIF orientation 1..8; other values mean 1."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
