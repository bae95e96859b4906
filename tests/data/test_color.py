"""Against Pillow's operations, which torchvision calls for PIL images."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy.ndimage import correlate1d
from sklearn.datasets import load_sample_image

from dinov3_jax.data import color


@pytest.fixture(scope="module")
def photo():
    return np.ascontiguousarray(load_sample_image("flower.jpg")[100:260, 150:350])


def difference(got, want):
    assert got.dtype == np.uint8
    return np.abs(got.astype(int) - np.asarray(want).astype(int))


def turn_hue_with_pillow(photo, turns):
    hue, saturation, value = Image.fromarray(photo).convert("HSV").split()
    hue = Image.fromarray(np.asarray(hue) + np.uint8(int(turns * 255) % 256))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.93, 1.0, 1.2, 1.4])
@pytest.mark.parametrize(
    ("operation", "enhance", "most"),
    [
        (color.brightness, ImageEnhance.Brightness, 0),
        # The mean is of rounded grey levels in Pillow; it may be one level off.
        (color.contrast, ImageEnhance.Contrast, 1),
        (color.saturation, ImageEnhance.Color, 1),  # grey is rounded on its own in Pillow
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_blends(photo, operation, enhance, most, factor):
    want = enhance(Image.fromarray(photo)).enhance(factor)
    assert difference(operation(photo, factor), want).max() <= most


@pytest.mark.parametrize("turns", [-0.1, -0.03, 0.0, 0.05, 0.1])
def test_hue(photo, turns):
    error = difference(color.hue(photo, turns), turn_hue_with_pillow(photo, turns))
    # Both go through 8-bit hues; a rounding step of 1/255 turn is up to 6 levels of a channel.
    assert error.mean() < 1
    assert error.max() <= 12


def test_gray(photo):
    want = Image.fromarray(photo).convert("L").convert("RGB")
    assert difference(color.gray(photo), want).max() <= 1  # rounding of 0.299, 0.587, 0.114


def test_solarize(photo):
    assert not difference(color.solarize(photo), ImageOps.solarize(Image.fromarray(photo))).any()


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [3, 8, 64])
def test_blur(photo, sigma, size):
    crop = np.ascontiguousarray(photo[:size, :size])
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / sigma) ** 2)
    want = crop.astype(float)
    for axis in (0, 1):
        want = correlate1d(want, kernel / kernel.sum(), axis, mode="mirror")
    # OpenCV's kernel has 8 fractional bits, so sums of 255 are off by up to one level.
    assert difference(color.blur(crop, sigma), want.round()).max() <= 1


def test_jitter_follows_the_order(photo):
    factors = [1.3, 0.7, 1.2, 0.05]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        want = photo
        for step in order:
            operation = (color.brightness, color.contrast, color.saturation, color.hue)[step]
            want = operation(want, factors[step])
        assert np.array_equal(color.jitter(photo, order, factors), want)


def test_nothing_is_changed_in_place(photo):
    before = photo.copy()
    color.jitter(photo, [0, 1, 2, 3], [1.3, 0.7, 1.2, 0.05])
    color.blur(color.solarize(color.gray(photo)), 1.0)
    assert np.array_equal(photo, before)
