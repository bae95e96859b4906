import dataclasses
import functools

import jax
import numpy as np
import pytest

from configs.base import get_config
from dinov3_jax.augment.augment import augment
from dinov3_jax.config import from_config_dict
from dinov3_jax.data import crops as host, order

BATCH = 12


@pytest.fixture(scope="module")
def crops():
    config = get_config()
    config.crops.global_size, config.crops.local_size, config.crops.local_count = 48, 24, 3
    return from_config_dict(config).crops


@pytest.fixture(scope="module")
def batches(photo, crops):
    """The same images and draws as a host batch and as a device batch."""
    height, width = photo.shape[:2]
    draws = [
        host.draw(order.rng(0, "augment", i), height=height, width=width, crops=crops)
        for i in range(BATCH)
    ]
    cut = [host.cut(photo, draw, crops=crops) for draw in draws]
    canvas = np.zeros((BATCH, 160, 160, 3), np.uint8)
    canvas[:, :height, :width] = photo
    return (
        {
            name: np.stack([c[i] for c in cut])
            for i, name in enumerate(("global_crops", "local_crops"))
        },
        {"canvas": canvas, **{name: np.stack([d[name] for d in draws]) for name in draws[0]}},
    )


@pytest.fixture(scope="module")
def run(crops):
    """Compiled ``augment``; ``run.traces`` counts its programs."""

    def traced(batch):
        run.traces += 1
        return augment(batch, crops=crops)

    compiled = jax.jit(traced)

    def run(batch):
        return [np.asarray(part) for part in compiled(batch)]

    run.traces = 0
    return run


@pytest.fixture(scope="module")
def results(batches, run):
    return [run(batch) for batch in batches]


def levels(normalized, crops):
    return (normalized * np.array(crops.std) + np.array(crops.mean)) * 255


def test_shapes_and_types(results):
    for global_crops, local_crops in results:
        assert global_crops.shape == (BATCH, 2, 48, 48, 3)
        assert local_crops.shape == (BATCH, 3, 24, 24, 3)
        assert global_crops.dtype == local_crops.dtype == np.float32


def test_host_batches_are_normalised_only(batches, results, crops):
    for name, got in zip(("global_crops", "local_crops"), results[0]):
        np.testing.assert_allclose(levels(got, crops), batches[0][name], atol=1e-3)  # float32


def test_device_and_host_give_the_same_pictures(results, crops):
    for on_host, on_device in zip(*results):
        error = np.abs(levels(on_device, crops) - levels(on_host, crops)).mean(axis=(2, 3, 4))
        # Levels. The host averages areas where the device has an antialiased cubic, which is
        # sharper, and rounds after each of up to seven operations, with hues of 8 bits. A wrong
        # draw (no flip, another order, no blur) costs 10 and more.
        assert error.mean() < 3
        assert error.max() < 8


def test_other_draws_give_other_pictures(results, crops):
    """The tolerance above would notice if crops were confused."""
    for on_host, on_device in zip(*results):
        error = np.abs(levels(on_device, crops) - levels(np.roll(on_host, 1, axis=0), crops))
        assert error.mean() > 15


def test_one_program_for_all_draws(batches, results, run):
    before = run.traces
    turned = run({name: value[::-1].copy() for name, value in batches[1].items()})
    assert run.traces == before
    for got, want in zip(turned, results[1]):
        np.testing.assert_allclose(got[::-1], want, atol=1e-5)  # same program, other rows


def test_no_local_crops(batches, crops):
    none = dataclasses.replace(crops, local_count=0)
    batch = {name: v if name == "canvas" else v[:, :2] for name, v in batches[1].items()}
    shapes = jax.eval_shape(functools.partial(augment, crops=none), batch)
    assert [part.shape for part in shapes] == [(BATCH, 2, 48, 48, 3), (BATCH, 0, 24, 24, 3)]
