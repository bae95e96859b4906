import dataclasses
import time

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from dinov3_jax.data import crops, order


@pytest.fixture(scope="module")
def config(make_config):
    return make_config({"crops.local_count": 6}).crops


@pytest.fixture(scope="module")
def photo():
    return load_sample_image("flower.jpg")


def many(config, count, *, height=300, width=400):
    draws = [
        crops.draw(order.rng(0, "augment", i), height=height, width=width, crops=config)
        for i in range(count)
    ]
    return {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}


def test_shapes_and_types(config):
    shapes = {
        name: (value.shape, value.dtype.name)
        for name, value in crops.draw(
            order.rng(0, "augment", 0), height=9, width=7, crops=config
        ).items()
    }
    assert shapes == {
        "box": ((8, 4), "float32"),
        "flip": ((8,), "bool"),
        "jitter": ((8,), "bool"),
        "order": ((8, 4), "int32"),
        "factors": ((8, 4), "float32"),
        "gray": ((8,), "bool"),
        "blur": ((8,), "float32"),
        "solarize": ((8,), "bool"),
    }


@pytest.mark.parametrize("size", [(300, 400), (28, 28), (1, 1), (2, 900), (900, 2), (5, 3)])
def test_boxes_are_whole_and_inside(config, size):
    box = many(config, 200, height=size[0], width=size[1])["box"]
    assert np.array_equal(box, box.round())
    assert (box >= [0, 0, 1, 1]).all()
    assert (box[..., :2] + box[..., 2:] <= size).all()


def test_box_statistics(config):
    box = many(config, 2000)["box"]
    area = box[..., 2] * box[..., 3] / (300 * 400)
    aspect = np.log(box[..., 3] / box[..., 2])
    for which, (low, high) in (
        (slice(0, 2), config.global_scale),
        (slice(2, None), config.local_scale),
    ):
        # Whole pixels: a side of 60 that is off by half a pixel changes the area by 1 %.
        assert area[:, which].min() > low * 0.98
        assert area[:, which].max() < high * 1.02
    # Local boxes nearly always fit at the first try, so their laws are plain uniform ones:
    # mean and standard deviation of 12,000 samples to 3 %.
    local = area[:, 2:]
    assert local.mean() == pytest.approx(np.mean(config.local_scale), rel=0.03)
    assert local.std() == pytest.approx(np.ptp(config.local_scale) / 12**0.5, rel=0.03)
    assert abs(aspect[:, 2:].mean()) < 0.01
    assert aspect[:, 2:].std() == pytest.approx(np.log(16 / 9) / 12**0.5, rel=0.03)


def test_box_law_matches_a_plain_loop(config):
    """RandomResizedCrop written as its loop, on an image so wide that tries often fail."""

    def loop(rng, height, width, scale):
        for _ in range(10):
            area = height * width * rng.uniform(*scale)
            aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                return h, w
        return height, round(height * 4 / 3)  # of a wide image

    rng = np.random.default_rng(0)
    want = np.array([loop(rng, 100, 240, config.global_scale) for _ in range(4000)])
    got = many(config, 2000, height=100, width=240)["box"][:, :2, 2:].reshape(-1, 2)
    # Standard error of a mean of 4,000 sides of sd 12 is 0.2 pixels; of the share 0.008.
    assert np.abs(got.mean(axis=0) - want.mean(axis=0)).max() < 1.0
    fallback = [(x == [100, 133]).all(axis=1).mean() for x in (got, want)]
    assert fallback[1] > 0.02
    assert abs(fallback[0] - fallback[1]) < 0.03


def test_fallback_is_the_centre(config):
    draws = many(config, 3, height=2, width=900)
    assert (draws["box"] == [0, 448, 2, 3]).all()  # (900 - 3) // 2
    draws = many(config, 3, height=900, width=2)
    assert (draws["box"] == [448, 0, 3, 2]).all()


def test_probabilities_and_ranges(config):
    draws = many(config, 2000)
    share = {name: draws[name].mean(axis=0) for name in ("flip", "jitter", "gray", "solarize")}
    share["blur"] = (draws["blur"] > 0).mean(axis=0)
    # Standard deviation of a share of 2,000 is at most 0.011; five of them.
    assert np.abs(share["flip"] - 0.5).max() < 0.055
    assert np.abs(share["jitter"] - 0.8).max() < 0.055
    assert np.abs(share["gray"] - 0.2).max() < 0.055
    assert np.abs(share["solarize"] - [0, 0.2, 0, 0, 0, 0, 0, 0]).max() < 0.055
    assert np.abs(share["blur"] - [0, 0.9, *[0.5] * 6]).max() < 0.055
    assert share["blur"][0] == 0
    assert share["solarize"][0] == 0
    sigma = draws["blur"][draws["blur"] > 0]
    assert sigma.min() >= 0.1
    assert sigma.max() <= 2
    assert abs(sigma.mean() - 1.05) < 0.03
    low, high = draws["factors"].min(axis=(0, 1)), draws["factors"].max(axis=(0, 1))
    assert low == pytest.approx([0.6, 0.6, 0.8, -0.1], abs=1e-3)  # of 16,000 uniform numbers
    assert high == pytest.approx([1.4, 1.4, 1.2, 0.1], abs=1e-3)
    assert np.array_equal(np.sort(draws["order"]), np.broadcast_to(np.arange(4), (2000, 8, 4)))
    assert np.abs((draws["order"] == 0).mean(axis=(0, 1)) - 0.25).max() < 0.02


def test_flip_can_be_off(config):
    assert not many(dataclasses.replace(config, horizontal_flip=False), 50)["flip"].any()


def plain(count, box):
    return {
        "box": np.tile(np.float32(box), (count, 1)),
        "flip": np.zeros(count, bool),
        "jitter": np.zeros(count, bool),
        "order": np.tile(np.arange(4, dtype=np.int32), (count, 1)),
        "factors": np.tile(np.float32([1, 1, 1, 0]), (count, 1)),
        "gray": np.zeros(count, bool),
        "blur": np.zeros(count, np.float32),
        "solarize": np.zeros(count, bool),
    }


def test_cut_is_the_box(config, photo):
    draws = plain(8, [30, 40, 16, 16])
    draws["flip"][1] = True
    global_crops, local_crops = crops.cut(photo, draws, crops=config).values()
    assert global_crops.shape == (2, 16, 16, 3)
    assert local_crops.shape == (6, 8, 8, 3)
    assert np.array_equal(global_crops[0], photo[30:46, 40:56])
    assert np.array_equal(global_crops[1], photo[30:46, 40:56][:, ::-1])
    mean = photo[30:46, 40:56].reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(local_crops[3] - mean).max() <= 0.5  # rounding


def test_each_switch_acts_on_its_crop(config, photo):
    box = [150, 280, 32, 32]  # has levels on both sides of 128
    base = crops.cut(photo, plain(8, box), crops=config)["local_crops"]
    for name, value in [("flip", True), ("gray", True), ("blur", 1.5), ("solarize", True)]:
        draws = plain(8, box)
        draws[name][4] = value
        got = crops.cut(photo, draws, crops=config)["local_crops"]
        changed = (got != base).any(axis=(1, 2, 3))
        assert changed.tolist() == [False, False, True, False, False, False], name


@pytest.mark.parametrize("source", [200, 24])
def test_resize_is_close_to_pillow(photo, source):
    image = np.ascontiguousarray(photo[100 : 100 + source, 200 : 200 + source])
    want = np.asarray(Image.fromarray(image).resize((64, 64), Image.BICUBIC)).astype(int)
    error = np.abs(crops.resize(image, 64, 64) - want)
    # Area averaging against an antialiased cubic, and a cubic of -0.75 against one of -0.5: both
    # differ at edges only.
    assert error.mean() < 3


def test_small_images_are_enlarged(config):
    image = np.full((3, 2, 3), 77, np.uint8)
    draws = crops.draw(order.rng(0, "augment", 0), height=3, width=2, crops=config)
    draws.update({k: plain(8, [0] * 4)[k] for k in ("jitter", "gray", "blur", "solarize")})
    for part in crops.cut(image, draws, crops=config).values():
        assert (part == 77).all()


def test_no_local_crops(config, photo):
    none = dataclasses.replace(config, local_count=0)
    draws = crops.draw(order.rng(0, "augment", 0), height=427, width=640, crops=none)
    assert draws["box"].shape == (2, 4)
    assert crops.cut(photo, draws, crops=none)["local_crops"].shape == (0, 8, 8, 3)


@pytest.mark.parametrize("distortions", [False, True])
def test_gram_crops_have_the_boxes_of_the_global_crops(config, distortions):
    """On ramps of red downwards and green to the right every shift or flip shows."""
    image = np.zeros((200, 240, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(200)[:, None], np.arange(240)
    gram = dataclasses.replace(config, gram_size=32, gram_distortions=distortions)
    for i in range(20):
        draws = crops.draw(order.rng(0, "augment", i), height=200, width=240, crops=gram)
        draws.update({k: plain(8, [0] * 4)[k] for k in ("jitter", "gray", "blur", "solarize")})
        got = crops.cut(image, draws, crops=gram)
        mean = got["gram_crops"].reshape(2, 16, 2, 16, 2, 3).mean(axis=(2, 4))
        # Means of a ramp are exact; both crops are rounded to whole levels, and one pixel of the
        # smaller crop is at least 5 levels of a ramp.
        assert np.abs(got["global_crops"] - mean).max() <= 1.5


DISTORTED = {"jitter_probability": 1.0, "blur_probability": (1.0, 1.0, 1.0)}
CLEAN = {
    "jitter_probability": 0.0,
    "gray_probability": 0.0,
    "blur_probability": (0.0, 0.0, 0.0),
    "solarize_probability": 0.0,
}


def cut_photo(config, photo, **changes):
    config = dataclasses.replace(config, **changes)
    draws = crops.draw(order.rng(0, "augment", 0), height=427, width=640, crops=config)
    return crops.cut(photo, draws, crops=config)


def test_clean_gram_crops_leave_the_global_crops_alone(config, photo):
    without = cut_photo(config, photo, **DISTORTED)
    assert without.keys() == {"global_crops", "local_crops"}
    got = cut_photo(config, photo, gram_size=24, gram_distortions=False, **DISTORTED)
    for name in without:
        assert np.array_equal(got[name], without[name])
    clean = cut_photo(config, photo, global_size=24, **CLEAN)
    assert np.array_equal(got["gram_crops"], clean["global_crops"])


def test_distorted_gram_crops_are_the_global_crops_before_their_resize(config, photo):
    got = cut_photo(config, photo, gram_size=24, gram_distortions=True, **DISTORTED)
    large = cut_photo(config, photo, global_size=24, **DISTORTED)
    assert np.array_equal(got["gram_crops"], large["global_crops"])
    assert np.array_equal(got["local_crops"], large["local_crops"])
    for gram, crop in zip(got["gram_crops"], got["global_crops"]):
        assert np.array_equal(crop, crops.resize(gram, 16, 16))


def test_one_box_has_the_law_of_all(config):
    rng, scale = np.random.default_rng(0), config.global_scale
    got = np.array([crops.random_box(rng, height=100, width=240, scale=scale) for _ in range(4000)])
    want = many(config, 2000, height=100, width=240)["box"][:, :2].reshape(-1, 4)
    # Standard errors: of a mean of 4,000 sides of sd 12, 0.2 pixels; of a column of sd 35, 0.6.
    assert np.abs(got.mean(axis=0) - want.mean(axis=0)).max() < 2.0
    assert (got[:, :2] + got[:, 2:] <= (100, 240)).all()
    for bad in ({"height": 0}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 1.1)}):
        with pytest.raises(ValueError, match="wanted at least 1 x 1 and 0 < scale"):
            crops.random_box(rng, **({"height": 5, "width": 5, "scale": scale} | bad))


def test_an_empty_image_is_an_error(config):
    with pytest.raises(ValueError, match="image is 0 x 5 pixels"):
        crops.draw(order.rng(0, "augment", 0), height=0, width=5, crops=config)


def test_small_images_are_quick(make_config):
    """The default job has two cores for the data and the training."""
    config = make_config({"crops.global_size": 32, "crops.local_count": 6}).crops
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3)).astype(np.uint8)
    start = time.process_time()
    for i in range(100):
        draws = crops.draw(order.rng(0, "augment", i), height=28, width=28, crops=config)
        crops.cut(image, draws, crops=config)
    # Seconds an image; 0.45e-3 measured, several times that for a loaded machine.
    assert (time.process_time() - start) / 100 < 3e-3
