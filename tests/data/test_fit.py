import numpy as np
import pytest
from PIL import Image

from dinov3_jax.data.fit import fit

GREY = (124, 116, 104)


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def to(image, size, how, stride=8):
    return fit(image, size, how=how, stride=stride, fill=GREY)


@pytest.mark.parametrize("how", ["resize", "crop", "pad"])
def test_an_image_of_that_size_is_left_alone(how):
    image = photo(16, 24)
    for size in ((16, 24), None):
        np.testing.assert_array_equal(to(image, size, how).pixels, image)
        assert to(image, size, how)[1:] == (16, 24)


def test_resize_is_that_of_pillow():
    image = photo(50, 30)
    wanted = Image.fromarray(image).resize((24, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(to(image, (16, 24), "resize").pixels, np.asarray(wanted))


@pytest.mark.parametrize(
    ("how", "shape", "shown"),
    [("resize", (40, 32), (40, 32)), ("crop", (32, 24), (32, 24)), ("pad", (40, 32), (37, 29))],
)
def test_an_own_size_comes_to_whole_patches(how, shape, shown):
    image = photo(37, 29)
    fitted = to(image, None, how)
    assert fitted.pixels.shape == (*shape, 3)
    assert (fitted.height, fitted.width) == shown
    if how != "resize":  # no pixel is touched
        h, w = min(37, shape[0]), min(29, shape[1])
        np.testing.assert_array_equal(fitted.pixels[:h, :w], image[:h, :w])


@pytest.mark.parametrize("shape", [(100, 40), (40, 100), (9, 7), (333, 1), (64, 65)])
def test_crop_covers_and_pad_holds(shape):
    image = np.full((*shape, 3), 200, np.uint8)
    cropped = to(image, (32, 48), "crop")
    np.testing.assert_array_equal(cropped.pixels, np.full((32, 48, 3), 200))
    padded = to(image, (32, 48), "pad")
    h, w = padded[1:]
    assert h == 32 or w == 48
    np.testing.assert_array_equal(padded.pixels[:h, :w], np.full((h, w, 3), 200))
    assert (padded.pixels[h:] == GREY).all()
    assert (padded.pixels[:, w:] == GREY).all()
    # The aspect survives, to the pixel that rounding may cost, or one pixel where it is thinner.
    assert abs(h * shape[1] - w * shape[0]) <= max(shape) or min(h, w) == 1


def test_crop_takes_the_centre():
    image = np.zeros((16, 48, 3), np.uint8)
    image[:, 16:32] = 255
    np.testing.assert_array_equal(to(image, (16, 16), "crop").pixels, np.full((16, 16, 3), 255))


@pytest.mark.parametrize("how", ["resize", "crop"])
def test_an_image_smaller_than_a_patch(how):
    with pytest.raises(ValueError, match="image of 7 x 30 pixels is smaller than a patch of 8 x 8"):
        to(photo(7, 30), None, how)


def test_a_small_image_can_be_padded_or_enlarged():
    assert to(photo(7, 30), None, "pad").pixels.shape == (8, 32, 3)
    assert to(photo(7, 30), (16, 16), "crop").pixels.shape == (16, 16, 3)
