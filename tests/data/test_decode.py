import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from dinov3_jax.data.decode import decode


@pytest.fixture(scope="module")
def photo():
    return np.ascontiguousarray(load_sample_image("flower.jpg")[:96, :128])


def encode(image, form, **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_jpeg_matches_pillow(photo):
    data = encode(photo, "JPEG", quality=90)
    want = np.array(Image.open(io.BytesIO(data)))
    # Both wrap libjpeg-turbo; versions may differ in the rounding of chroma upsampling.
    assert np.abs(decode(data).astype(int) - want).max() <= 2


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_are_exact(photo, form):
    assert np.array_equal(decode(encode(photo, form)), photo)


@pytest.mark.parametrize("form", ["WEBP", "GIF"])
def test_other_formats(photo, form):
    got = decode(encode(photo, form))
    assert got.shape == photo.shape
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - photo).mean() < 12  # levels: lossy, or 256 colours


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_grey_is_repeated(photo, form):
    grey = photo[..., 0]
    got = decode(encode(grey, form, **({"quality": 95} if form == "JPEG" else {})))
    assert got.shape == photo.shape
    assert np.array_equal(got[..., 0], got[..., 1])
    assert np.array_equal(got[..., 0], got[..., 2])
    assert np.abs(got[..., 0].astype(int) - grey).mean() < 2  # levels, JPEG at quality 95


def test_cmyk_jpeg(photo):
    got = decode(encode(Image.fromarray(photo).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(got.astype(int) - photo).mean() < 4  # levels, JPEG at quality 95


def test_palette(photo):
    palette = Image.fromarray(photo).quantize(32)
    assert np.array_equal(decode(encode(palette, "PNG")), np.array(palette.convert("RGB")))


def test_sixteen_bits_keep_the_upper_eight():
    wide = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    for form in ("PNG", "TIFF"):
        assert np.array_equal(decode(encode(wide, form))[..., 1], (wide >> 8).astype(np.uint8))


def test_alpha_is_composited_on_white(photo):
    alpha = np.zeros(photo.shape[:2], np.uint8)
    alpha[:, 64:] = 255
    got = decode(encode(np.dstack([photo, alpha]), "PNG"))
    assert (got[:, :64] == 255).all()
    assert np.array_equal(got[:, 64:], photo[:, 64:])


def test_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    got = decode(encode(image, "PNG", transparency=0))
    assert got.tolist() == [[[255, 255, 255], [0, 0, 255]]]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(photo, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"PNG": {}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True}}[form]
    plain = decode(encode(photo, form, **options))
    got = decode(encode(photo, form, exif=exif, **options))
    turned = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.swapaxes(0, 1),
        6: np.rot90(plain, -1),
        7: plain[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(plain),
    }
    assert np.array_equal(got, turned[orientation])
    assert got.flags.c_contiguous


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_truncated_is_an_error(photo, form):
    data = encode(photo, form)
    with pytest.raises(ValueError, match="unreadable image"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"<html>not found</html>" * 9])
def test_other_bytes_are_an_error(data):
    with pytest.raises(ValueError, match=f"unreadable image of {len(data)} bytes"):
        decode(data)


def test_float_pixels_are_an_error():
    with pytest.raises(ValueError, match="no known range"):
        decode(encode(np.ones((4, 4), np.float32), "TIFF"))


def test_a_jpeg_with_bytes_after_its_end_is_read(photo):
    data = encode(photo, "JPEG")
    assert np.array_equal(decode(data + b"\0" * 50), decode(data))


def test_enough_allows_a_smaller_jpeg_but_not_too_small():
    image = np.zeros((400, 600, 3), np.uint8)
    data = encode(image, "JPEG")
    assert decode(data).shape == (400, 600, 3)
    assert decode(data, enough=200).shape == (200, 300, 3)
    assert decode(data, enough=201).shape == (400, 600, 3)  # 5/8 would be slower
    assert decode(encode(image, "PNG"), enough=100).shape == (400, 600, 3)


def test_arrays(photo):
    assert np.array_equal(decode(photo), photo)
    for grey in (photo[..., 0], photo[..., :1]):
        assert np.array_equal(decode(grey), np.repeat(photo[..., :1], 3, axis=2))
    opaque = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    assert np.array_equal(decode(opaque), photo)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)]
)
def test_wrong_arrays(array):
    with pytest.raises(ValueError, match="wanted uint8"):
        decode(array)
