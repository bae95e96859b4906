import numpy as np
import pytest
from PIL import Image

from dinov3_jax.data.bicubic import letterbox, on_grid, resize
from tests.features.models import images

IMAGE = images(1, 30, 50)[0]


def test_resize_is_pillows():
    wanted = Image.fromarray(IMAGE).resize((20, 60), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resize(IMAGE, 60, 20), np.asarray(wanted))
    assert resize(IMAGE, 30, 50) is IMAGE


def test_letterbox_keeps_the_aspect_in_a_black_square():
    made = letterbox(IMAGE, 100)
    assert made.shape == (100, 100, 3)
    np.testing.assert_array_equal(made[20:80], resize(IMAGE, 60, 100))
    assert not made[:20].any()
    assert not made[80:].any()
    np.testing.assert_array_equal(
        letterbox(IMAGE.swapaxes(0, 1), 100)[:, 20:80].shape, (100, 60, 3)
    )
    assert letterbox(np.full((1, 500, 3), 255, np.uint8), 100).sum() == 255 * 3 * 100


@pytest.mark.parametrize(
    ("longest", "stride", "shape"),
    [(None, 16, (32, 48)), (25, 8, (16, 24)), (512, 16, (32, 48)), (5, 8, (8, 8))],
)
def test_on_grid(longest, stride, shape):
    assert on_grid(IMAGE, longest, stride=stride).shape[:2] == shape
