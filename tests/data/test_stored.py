import io

import msgpack
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from dinov3_jax.data.decode import decode
from dinov3_jax.data.record import Record
from dinov3_jax.data.stored import Recode, store


@pytest.fixture(scope="module")
def photo():
    from sklearn.datasets import load_sample_image

    return load_sample_image("flower.jpg")  # [427, 640, 3]


def image(stored):
    return msgpack.unpackb(stored.data)["img"]


def test_encoded_images_are_kept(photo):
    data = simplejpeg.encode_jpeg(photo, quality=95)
    for recode in (Recode(), Recode(longest=640), Recode(longest=1000)):
        stored = store(Record(data, "x", 3), recode)
        assert image(stored) == data
        assert (stored.height, stored.width, stored.bytes) == (427, 640, len(data))
    fields = msgpack.unpackb(stored.data)
    assert (fields["s"], fields["y"], fields["k"].hex()) == ("x", 3, stored.hash)


def test_moments(photo):
    """Against NumPy; an image of one value would hide a swap of channels."""
    stored = store(Record(photo, "x", None), Recode())
    np.testing.assert_allclose(stored.mean, (photo / 255).mean((0, 1)), rtol=1e-9)
    np.testing.assert_allclose(stored.square, ((photo / 255) ** 2).mean((0, 1)), rtol=1e-9)


@pytest.mark.parametrize(("turn", "size"), [(0, (67, 100)), (1, (100, 67))])
def test_the_longest_side_is_limited(photo, turn, size):
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(np.rot90(photo, turn)), quality=95)
    stored = store(Record(data, "x", None), Recode(longest=100))
    assert (stored.height, stored.width) == size
    got = decode(image(stored)).astype(float)
    want = np.asarray(Image.fromarray(decode(data)).resize(size[::-1], Image.Resampling.BOX))
    assert abs(got - want).mean() < 4  # levels: JPEG at 90; a wrong crop or turn gives over 30


def test_quality(photo):
    data = simplejpeg.encode_jpeg(photo, quality=95)
    sizes = [store(Record(data, "x", None), Recode(quality=q)).bytes for q in (30, 60, 90)]
    assert sizes == sorted(sizes)
    assert sizes[-1] < len(data)
    small = simplejpeg.encode_jpeg(photo, quality=30)
    assert image(store(Record(small, "x", None), Recode(quality=90))) == small
    png = image(store(Record(photo, "x", None), Recode()))
    assert np.array_equal(decode(png), photo)
    assert image(store(Record(png, "x", None), Recode(quality=90)))[:2] == b"\xff\xd8"


def test_an_oriented_photo_that_is_shrunk_stands_upright(photo):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it
    Image.fromarray(photo).save(file, "JPEG", exif=exif)
    stored = store(Record(file.getvalue(), "x", None), Recode(longest=100))
    assert (stored.height, stored.width) == (100, 67)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8 not a JPEG"])
def test_unreadable(data):
    with pytest.raises(ValueError, match="unreadable image"):
        store(Record(data, "x", None), Recode())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("longest", 0, "longest is 0"), ("quality", 0, "quality is 0"), ("quality", 101, "101, want")],
)
def test_bad_settings(key, value, message):
    with pytest.raises(ValueError, match=message):
        Recode(**{key: value})
