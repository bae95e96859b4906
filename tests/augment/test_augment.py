import dataclasses
import functools

import jax
import numpy as np
import pytest

from configs.base import get_config
from dinov3_jax.augment.augment import augment
from dinov3_jax.data import crops as host, order
from dinov3_jax.recipe import from_config_dict

BATCH = 12


NAMES = ("global_crops", "local_crops", "gram_crops")


@pytest.fixture(scope="module", params=["no gram", "clean gram", "distorted gram"])
def crops(request):
    config = get_config()
    config.crops.global_size, config.crops.local_size, config.crops.local_count = 48, 24, 3
    if request.param != "no gram":
        config.crops.gram_size = 72
        config.crops.gram_distortions = request.param == "distorted gram"
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
        {name: np.stack([c[name] for c in cut]) for name in cut[0]},
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
        return [np.asarray(part) for part in compiled(batch) if part is not None]

    run.traces = 0
    return run


@pytest.fixture(scope="module")
def results(batches, run):
    return [run(batch) for batch in batches]


def levels(normalized, crops):
    return (normalized * np.array(crops.std) + np.array(crops.mean)) * 255


def test_shapes_and_types(results, crops):
    shapes = [(BATCH, 2, 48, 48, 3), (BATCH, 3, 24, 24, 3)]
    if crops.gram_size is not None:
        shapes.append((BATCH, 2, 72, 72, 3))
    for parts in results:
        assert [part.shape for part in parts] == shapes
        assert {part.dtype for part in parts} == {np.dtype("float32")}


def test_host_batches_are_normalised_only(batches, results, crops):
    for name, got in zip(NAMES, results[0]):
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
    none = dataclasses.replace(crops, local_count=0, gram_size=None)
    batch = {name: v if name == "canvas" else v[:, :2] for name, v in batches[1].items()}
    shapes = jax.eval_shape(functools.partial(augment, crops=none), batch)
    assert shapes.global_crops.shape == (BATCH, 2, 48, 48, 3)
    assert shapes.local_crops.shape == (BATCH, 0, 24, 24, 3)
    assert shapes.gram_crops is None


def test_clean_gram_crops_leave_the_global_crops_alone(batches, results, crops):
    if crops.gram_size is None or crops.gram_distortions:
        pytest.skip("the global crops come from distorted Gram crops, or there are none")
    none = dataclasses.replace(crops, gram_size=None)
    for batch, parts in zip(batches, results):
        got = jax.jit(functools.partial(augment, crops=none))(batch)
        np.testing.assert_allclose(got.global_crops, parts[0], atol=1e-5)  # two programs


def test_a_mixture_is_an_error(batches, crops):
    mixture = dataclasses.replace(crops, mixture=((48, 24, None, 1.0),))
    with pytest.raises(ValueError, match="crops is a mixture of sizes, wanted one; take crops_at"):
        augment(batches[0], crops=mixture)
