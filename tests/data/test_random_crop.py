import numpy as np
from PIL import Image

from dinov3_jax.data.random_crop import random_crop


def ramp(height, width):
    """Red says the row, green the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)


def test_the_whole_image_is_a_plain_resize_or_its_mirror():
    # 16 x 16: the only box of the whole area that fits is square.
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    plain = np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BICUBIC))
    rng, flips = np.random.default_rng(1), 0
    for _ in range(40):
        found = random_crop(image, rng, crop=8, scale=(1.0, 1.0))
        flipped = not np.array_equal(found, plain)
        flips += flipped
        np.testing.assert_array_equal(found, plain[:, ::-1] if flipped else plain)
    assert 10 <= flips <= 30  # half of 40, give or take three standard deviations


def test_boxes_wander_and_keep_to_the_scale():
    image, rng = ramp(60, 80), np.random.default_rng(0)
    found = [random_crop(image, rng, crop=10, scale=(0.2, 0.3)) for _ in range(200)]
    spans = np.array([[np.ptp(x[..., c].astype(float)) for c in (0, 1)] for x in found])
    # Ten samples span 9/10 of a box, and the kernel blurs its ends: shares come out near.
    shares = spans.prod(axis=1) / 0.81 / (60 * 80)
    assert 0.14 < shares.min() < shares.max() < 0.36
    middles = np.array([x[..., 0].mean() for x in found])
    assert middles.min() < 20
    assert middles.max() > 40


def test_the_same_stream_gives_the_same_crop():
    image = ramp(20, 30)
    crops = [random_crop(image, np.random.default_rng(3), crop=8) for _ in range(2)]
    np.testing.assert_array_equal(*crops)
