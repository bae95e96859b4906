import dataclasses
import json
import logging

import numpy as np
import pytest
from PIL import Image

from configs.base import get_config
from dinov3_jax.evals import pictures
from dinov3_jax.evals.gallery import over_time
from dinov3_jax.evals.similarity import (
    IMAGES,
    SHOWN,
    read_strips,
    split,
    strip,
    write_similarity,
)
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train import summary
from dinov3_jax.train.evaluate import Dense, EvalData, Forward

RNG = np.random.default_rng(0)
PHOTOS = RNG.integers(0, 256, (9, 28, 28, 3), dtype=np.uint8)
TOKENS = RNG.normal(size=(9, 16, 8)).astype(np.float32)
DARK, BRIGHT, GREY = pictures.heat([0.0, 1.0, np.nan])


def corners(row, side):
    """RGB [cells, side, side, 3] of a strip's row: each patch at its corner, clear of the ring."""
    size = row.shape[0]
    starts = range(0, row.shape[1], size + 4)
    cells = np.stack([row[:, at : at + size] for at in starts])
    step = size // side
    return cells[:, 1::step, 1::step, :3][:, :side, :side]


def test_two_objects_give_the_mask_of_the_object_asked_about():
    mask = np.zeros((4, 4), bool)
    mask[1:, 2:] = True  # holds (2, 2), the middle; (1, 1) lies outside
    tokens = np.where(mask.reshape(1, 16, 1), [3.0, 0.0], [0.0, 0.5])
    images, maps = split(strip(PHOTOS[:1], tokens))
    middle, quarter = corners(maps, 4)
    np.testing.assert_array_equal(middle, np.where(mask[..., None], BRIGHT, DARK))
    np.testing.assert_array_equal(quarter, np.where(mask[..., None], DARK, BRIGHT))
    for shown in corners(images, 28):  # the photograph, every pixel a square of 4 x 4
        np.testing.assert_array_equal(shown[0], PHOTOS[0][0])


def test_opposite_patches_count_as_zero_and_lost_ones_are_grey():
    tokens = TOKENS[:1].copy()
    tokens[:] = -1.0
    tokens[0, 10] = 1.0  # (2, 2)
    middle, quarter = corners(split(strip(PHOTOS[:1], tokens))[1], 4)
    assert (middle.reshape(16, 3) == BRIGHT).all(-1).sum() == 1
    assert (quarter.reshape(16, 3) == DARK).all(-1).sum() == 1
    tokens[0, 3, 2] = np.inf
    assert (corners(split(strip(PHOTOS[:1], tokens))[1], 4) == GREY).all()


def test_large_images_shrink_and_their_patches_stay_squares():
    picture = strip(np.zeros((1, 224, 224, 3), np.uint8), RNG.normal(size=(1, 196, 4)))
    assert picture.shape == (2 * 112 + 4, 2 * 112 + 4, 4)
    maps = split(picture)[1][:8, :112, :3].reshape(8, 14, 8, 3)
    assert (maps == maps[:1, :, :1]).all()


@pytest.mark.parametrize("side", [7, 28, 48, 100, 224])
def test_maps_are_as_large_as_their_images(side):
    picture = strip(np.zeros((2, side, side, 3), np.uint8), RNG.normal(size=(2, 9, 4)))
    size = (picture.shape[0] - 4) // 2
    assert 75 <= size <= 150
    assert picture.shape == (2 * size + 4, 4 * size + 3 * 4, 4)
    assert (picture[size : size + 4, :, 3] == 0).all()  # gaps show the page behind


def test_a_step_has_one_picture_whoever_writes_it(tmp_path):
    write_similarity(tmp_path, 20, PHOTOS, TOKENS)
    path = tmp_path / "similarity" / "00000020.png"
    first = path.read_bytes()
    write_similarity(tmp_path, 20, PHOTOS.copy(), 7 * TOKENS)  # cosines know no length
    assert path.read_bytes() == first
    write_similarity(tmp_path, 40, PHOTOS, TOKENS[::-1])
    assert [p.name for p in sorted(path.parent.iterdir())] == ["00000020.png", "00000040.png"]
    assert (path.parent / "00000040.png").read_bytes() != first
    assert len(first) < 300_000


def test_images_are_spread_over_those_there_are(tmp_path):
    plain = np.zeros((9, 28, 28, 3), np.uint8) + np.arange(9, dtype=np.uint8)[:, None, None, None]
    write_similarity(tmp_path, 0, plain, TOKENS)
    images = split(read_strips(tmp_path, [0])[0])[0]
    assert corners(images, 28)[:, 0, 0, 0].tolist() == [0, 0, 2, 2, 4, 4, 6, 6]
    assert len(corners(images, 28)) == 2 * IMAGES
    write_similarity(tmp_path, 0, plain[:1], TOKENS[:1])
    assert len(corners(split(read_strips(tmp_path, [0])[0])[0], 28)) == 2


def test_a_disk_that_takes_no_picture_is_logged(tmp_path, caplog):
    (tmp_path / "similarity").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        write_similarity(tmp_path, 20, PHOTOS, TOKENS)
    assert "no similarity picture of step 20" in caplog.text


def test_first_last_and_steps_between_are_read(tmp_path, caplog):
    assert read_strips(tmp_path, [0, 10]) == {}
    for step in range(0, 100, 10):
        write_similarity(tmp_path, step, PHOTOS[:1], TOKENS[:1])
    found = list(read_strips(tmp_path, range(0, 80, 5)))  # 80 and 90 are of no evaluation
    assert len(found) == SHOWN
    assert (found[0], found[-1]) == (0, 70)
    assert max(np.diff(found)) <= 20
    (tmp_path / "similarity" / "00000010.png").write_bytes(b"\x89PNG half")
    with caplog.at_level(logging.WARNING):
        assert list(read_strips(tmp_path, [0, 10])) == [0]
    assert "step 10 left out" in caplog.text


@pytest.mark.parametrize(
    ("images", "tokens", "message"),
    [
        (PHOTOS[:1, :14], TOKENS[:1], r"\(1, 14, 28, 3\), wanted \[n, H, H, 3\]"),
        (PHOTOS[:1], TOKENS[:1, :15], r"\(1, 15, 8\), wanted .* a square number"),
        (PHOTOS[:2], TOKENS[:1], r"wanted \[2, N, D\]"),
        (PHOTOS[:0], TOKENS[:0], "n >= 1"),
    ],
)
def test_errors_say_what_was_wrong(images, tokens, message):
    with pytest.raises(ValueError, match=message):
        strip(images, tokens)


def test_numbers_stand_beside_the_strips():
    rows = [
        {"step": 0, "health/patch_cosine": 0.25, "health/cls_patch_cosine": 0.0625},
        {"step": 1500, "health/patch_cosine": np.nan, "eval/knn": 81.25},
    ]
    strips = {step: strip(PHOTOS[:1], TOKENS[:1]) for step in (1500, 0)}
    text = over_time(strips, rows)
    assert text.index("step 0</b><br>patch to patch 0.250<br>CLS to patch 0.062") < text.index(
        "step 1,500</b><br>patch to patch not finite<br>k-NN 81.2 %"
    )
    assert text.count('alt="images"') == 1
    changed = strips | {1500: strip(PHOTOS[1:2], TOKENS[:1])}
    assert over_time(changed, rows).count('alt="images"') == 2
    assert over_time({}, rows) == ""


def report(workdir, config, side):
    """The report of a run with one evaluation, of random features on a ``side`` x ``side`` grid."""
    images = np.zeros((10, config.crops.global_size, config.crops.global_size, 3), np.uint8)

    def dense(teacher, images):
        count = len(images)
        tokens = RNG.normal(size=(count, side**2, 8)).astype(np.float32)
        return Dense(tokens[:, 0], tokens, tokens[:, 0])

    forward = Forward(cls=lambda teacher, images: dense(teacher, images).cls, dense=dense)
    write_similarity(workdir, 0, images, dense({}, images).patch_tokens)
    row = {"step": 0, "health/patch_cosine": 0.5, "health/cls_patch_cosine": 0.25}
    (workdir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    summary.report(workdir, config, EvalData(images, None), forward, {})
    return (workdir / "report.html").read_text()


def test_the_report_of_a_single_evaluation_has_the_section(tmp_path):
    text = report(tmp_path, from_config_dict(get_config()), side=14)
    assert "Dense features over time" in text
    assert "<b>step 0</b><br>patch to patch 0.500<br>CLS to patch 0.250" in text


def test_the_report_of_a_convnext_has_patches_of_its_stride(tmp_path):
    config = from_config_dict(get_config())
    config = dataclasses.replace(
        config, student=dataclasses.replace(config.student, arch="convnext_tiny")
    )
    text = report(tmp_path, config, side=7)  # 224 / 32
    assert "<dd>convnext_tiny</dd>" in text
    with Image.open(tmp_path / "similarity" / "00000000.png") as picture:
        assert picture.height == 2 * 112 + 4
