import jax
import numpy as np
import pytest
from PIL import Image

from dinov3_jax.augment.geometry import crop_resize, resize, resize_weights

crop = jax.jit(crop_resize, static_argnames="size")


def on_canvas(photo, side=160):
    canvas = np.full((1, side, side, 3), 255, np.uint8)
    canvas[0, : photo.shape[0], : photo.shape[1]] = photo
    return canvas


def cut(photo, box, *, size, flip=False):
    box, flip = np.float32([[box]]), np.array([[flip]])
    return np.asarray(crop(on_canvas(photo), box, flip, size=size))[0, 0]


@pytest.mark.parametrize("size", [16, 48, 96])
@pytest.mark.parametrize(
    "box", [(0, 0, 120, 150), (3, 50, 60, 45), (40, 100, 20, 26), (0, 0, 13, 11), (119, 149, 1, 1)]
)
def test_matches_pillow(photo, box, size):
    y, x, h, w = box
    part = Image.fromarray(photo).crop((x, y, x + w, y + h))
    want = np.asarray(part.resize((size, size), Image.BICUBIC)).astype(float)
    error = np.abs(cut(photo, box, size=size) - want)
    # Pillow rounds to whole levels after each direction: 0.25 on average each, and the second
    # pass and the clip can grow a few of them.
    assert error.mean() < 0.45
    assert error.max() < 8


@pytest.mark.parametrize("size", [32, 48, 100])
def test_a_resize_is_a_crop_of_everything(photo, size):
    picture = np.float32(photo[:96, :96])
    want = cut(photo[:96, :96], (0, 0, 96, 96), size=size)
    got = jax.jit(resize, static_argnames="size")(picture[None, None], size=size)
    # Float32 positions among 100 pixels differ by 1e-5, on slopes of up to 255 levels a pixel.
    np.testing.assert_allclose(got[0, 0], want, atol=5e-3)
    assert resize(picture, size=96) is picture


def test_flip_mirrors(photo):
    plain, flipped = (cut(photo, (5, 6, 70, 80), size=32, flip=flip) for flip in (False, True))
    np.testing.assert_allclose(flipped, plain[:, ::-1], atol=1e-3)  # other order of summation


def test_a_box_of_the_same_size_is_a_copy(photo):
    got = cut(photo, (7, 9, 32, 32), size=32)
    np.testing.assert_allclose(got, photo[7:39, 9:41], atol=1e-3)  # float32 rounding


def test_nothing_outside_the_box_contributes(photo):
    """The padding of the canvas is white; whole and scaled boxes must not see it."""
    dark = np.zeros_like(photo)
    for box in [(0, 0, 120, 150), (100, 130, 20, 20), (0, 0, 119.99999, 150.00002)]:
        assert not cut(dark, box, size=24).any()


@pytest.mark.parametrize("length", [0.2, 1.0, 3.7, 31.4, 150.0])
def test_weights_sum_to_one(length):
    starts = np.linspace(0, 160 - length, 50, dtype=np.float32)
    weights = resize_weights(starts, np.full_like(starts, length), pixels=160, size=24)
    assert weights.shape == (50, 24, 160)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)  # float32 sums of 160 terms


def test_batches_and_crops_are_independent(photo):
    canvas = np.concatenate([on_canvas(photo), on_canvas(photo[::-1])])
    boxes = np.float32([[(0, 0, 50, 60), (9, 9, 90, 20)], [(4, 8, 15, 16), (2, 3, 100, 100)]])
    flips = np.array([[False, True], [True, False]])
    together = np.asarray(crop(canvas, boxes, flips, size=20))
    assert together.shape == (2, 2, 20, 20, 3)
    for b in range(2):
        for g in range(2):
            alone = crop(
                canvas[b : b + 1], boxes[b : b + 1, g : g + 1], flips[b : b + 1, g : g + 1], size=20
            )
            np.testing.assert_allclose(together[b, g], alone[0, 0], atol=1e-3)
