import numpy as np
import pytest
from PIL import Image

from dinov3_jax.data.centre_crop import centre_crop


def photo(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("shape", "resized", "centre"),
    [
        ((40, 61), (20, 30), np.s_[2:18, 7:23]),  # 30.5 rounded down
        ((61, 40), (30, 20), np.s_[7:23, 2:18]),
        ((40, 40), (20, 20), np.s_[2:18, 2:18]),
    ],
)
def test_the_short_side_is_resized_and_the_centre_taken(shape, resized, centre):
    image = photo(*shape)
    wanted = Image.fromarray(image).resize(resized[::-1], Image.Resampling.BICUBIC)
    got = centre_crop(image, resize=20, crop=16)
    np.testing.assert_array_equal(got, np.asarray(wanted)[centre])


def test_an_image_of_that_size_is_left_alone():
    np.testing.assert_array_equal(centre_crop(photo(8, 8), resize=8, crop=8), photo(8, 8))


def test_a_small_image_is_enlarged():
    assert centre_crop(photo(3, 1), resize=8, crop=8).shape == (8, 8, 3)


@pytest.mark.parametrize(("resize", "crop"), [(8, 9), (8, 0)])
def test_sizes_that_make_no_sense(resize, crop):
    with pytest.raises(ValueError, match=f"crop is {crop}, resize 8"):
        centre_crop(photo(8, 8), resize=resize, crop=crop)
