import numpy as np
import pytest

from dinov3_jax.data.canvas import place


@pytest.fixture
def canvas():
    return np.full((16, 16, 3), 9, np.uint8)


@pytest.mark.parametrize("size", [(16, 16), (5, 16), (16, 1), (3, 4)])
def test_an_image_that_fits_is_copied(canvas, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    scale = place(image, canvas)
    assert np.array_equal(canvas[: size[0], : size[1]], image)
    assert (canvas[size[0] :] == 9).all()
    assert (canvas[:, size[1] :] == 9).all()
    assert scale.dtype == np.float32
    assert scale.tolist() == [1, 1, 1, 1]


def test_a_large_image_is_shrunk_with_its_boxes(canvas):
    image = np.zeros((24, 64, 3), np.uint8)
    image[8:16, 32:64] = 200
    scale = place(image, canvas)
    assert scale.tolist() == [0.25] * 4
    y, x, h, w = (np.float32([8, 32, 8, 32]) * scale).astype(int)
    assert (canvas[y : y + h, x : x + w] == 200).all()
    assert canvas[:6].astype(int).sum() == 200 * h * w * 3
    assert (canvas[6:] == 9).all()


def test_a_thin_image_keeps_a_pixel(canvas):
    scale = place(np.full((1, 100, 3), 50, np.uint8), canvas)
    assert (canvas[0] == 50).all()
    assert (canvas[1:] == 9).all()
    assert scale[:2].tolist() == [1, np.float32(0.16)]
