import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from dinov3_jax.data.preprocess import preprocess
from dinov3_jax.models.model import WEB

STATISTICS = dict(stride=16, mean=WEB[0], std=WEB[1])


@pytest.fixture(scope="module")
def photo():
    return np.ascontiguousarray(load_sample_image("flower.jpg")[:90, :130])


def test_the_published_transform(photo):
    """By the triangle kernel of an antialiased bilinear resize, rounded to levels as uint8 is."""

    def kernel(inputs, outputs):
        ratio = inputs / outputs
        centre = (np.arange(outputs)[:, None] + 0.5) * ratio
        weight = np.maximum(1 - np.abs(np.arange(inputs) + 0.5 - centre) / max(ratio, 1.0), 0)
        return weight / weight.sum(axis=1, keepdims=True)

    wanted = np.einsum("yi,xj,ijc->yxc", kernel(90, 32), kernel(130, 48), photo)
    got = preprocess(photo, (32, 48), **STATISTICS)
    assert got.dtype == np.float32
    assert got.shape == (32, 48, 3)
    levels = (got * WEB[1] + WEB[0]) * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)  # float32 of whole levels
    assert np.abs(levels - wanted).max() <= 1.01  # each of two passes rounds by half a level


def test_kinds_of_input_agree(photo, tmp_path):
    picture = Image.fromarray(photo)
    picture.save(tmp_path / "a.png")
    wanted = preprocess(photo, 64, **STATISTICS)
    for other in (tmp_path / "a.png", str(tmp_path / "a.png"), picture):
        np.testing.assert_array_equal(preprocess(other, 64, **STATISTICS), wanted)
    data = (tmp_path / "a.png").read_bytes()
    np.testing.assert_array_equal(preprocess(data, 64, **STATISTICS), wanted)


def test_own_size_loses_right_and_bottom(photo):
    got = preprocess(photo, None, **STATISTICS)
    wanted = (photo[:80, :128] / 255.0 - WEB[0]) / WEB[1]
    np.testing.assert_allclose(got, wanted, atol=1e-6)  # float32 of values of order 1


def test_a_turned_photograph(photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    turned = Image.fromarray(np.rot90(photo).copy())
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    wanted = preprocess(photo, 64, **STATISTICS)
    np.testing.assert_array_equal(preprocess(buffer.getvalue(), 64, **STATISTICS), wanted)
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    np.testing.assert_array_equal(preprocess(opened, 64, **STATISTICS), wanted)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "1"])
def test_other_colours_give_three_channels(photo, mode):
    got = preprocess(Image.fromarray(photo).convert(mode), 32, **STATISTICS)
    assert got.shape == (32, 32, 3)
    if mode == "RGBA":
        np.testing.assert_array_equal(got, preprocess(photo, 32, **STATISTICS))


@pytest.mark.parametrize(
    ("image", "size", "message"),
    [
        (np.zeros((50, 50, 3), np.uint8), 250, "nearest to 250 are 240 and 256"),
        (np.zeros((50, 50, 3), np.uint8), (32, 0), "nearest to 0 are 16 and 32"),
        (np.zeros((50, 9, 3), np.uint8), None, "50 x 9 pixels is smaller than a patch of 16 x 16"),
        (np.zeros((50, 50, 3), np.float32), 64, "pixels are float32"),
        (b"no image", 64, "unreadable image"),
    ],
)
def test_mistakes(image, size, message):
    with pytest.raises(ValueError, match=message):
        preprocess(image, size, **STATISTICS)
