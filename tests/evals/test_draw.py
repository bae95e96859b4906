import numpy as np
import pytest

from dinov3_jax.evals import draw

COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]], np.uint8)


def test_nearest_makes_each_patch_a_block():
    big = draw.enlarge(COLOURS, 8, 6, upscale="nearest")
    np.testing.assert_array_equal(big, COLOURS.repeat(4, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize("upscale", draw.UPSCALES)
def test_one_colour_stays_one(upscale):
    big = draw.enlarge(np.full((2, 3, 3), 77, np.uint8), 20, 30, upscale=upscale)
    np.testing.assert_array_equal(big, np.full((20, 30, 3), 77))


def test_overlay_is_half_grey_image_half_colour():
    image = np.full((2, 2, 3), 100, np.uint8)
    np.testing.assert_array_equal(draw.overlay(image, image), image)
    np.testing.assert_array_equal(draw.overlay(image, COLOURS)[0, 0], [178, 50, 50])


def test_the_ring_is_where_the_point_is():
    image = np.full((100, 200, 3), 128, np.uint8)
    changed = np.argwhere((draw.mark(image, (0.25, 0.6)) != image).any(axis=-1))
    np.testing.assert_allclose(changed.mean(axis=0), [60, 50], atol=1)  # whole pixels
    assert (image == 128).all()


def test_beside():
    both = draw.beside(COLOURS, COLOURS[:, :1])
    np.testing.assert_array_equal(both[:, :2], COLOURS)
    np.testing.assert_array_equal(both[:, -1:], COLOURS[:, :1])
    assert (both[:, 2:-1] == 255).all()
