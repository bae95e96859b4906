import jax
import numpy as np
import pytest

from configs import base
from dinov3_jax import schedules
from dinov3_jax.config import ConfigError, ScheduleConfig
from dinov3_jax.recipe import from_config_dict

# Six digits are printed in the references; float32 holds seven.
PRINTED = 5e-6


def schedule(peak, **keys):
    return from_config_dict(base.schedule(peak, **keys), ScheduleConfig)


def at(config, step, *, steps):
    return float(schedules.value(config, step, steps=steps))


LR_7B = schedule(4e-4, start=0.0, warmup=100_000)
TEMPERATURE_7B = schedule(0.07, start=0.04, warmup=100_000)
# Off until the anchoring starts at 1,000,000, then a cosine of 1000 points.
GRAM_WEIGHT = schedule(0.0, end=2.0, warmup=1_000_000, cosine=1000)
LOCAL_WEIGHT = schedule(1.0, end=0.5, warmup=1_000_000, cosine=1000)
LR_HIGH_RESOLUTION = schedule(0.0, end=7.0710678e-5, cosine=10_000)
LR_DISTILLATION = schedule(0.0, end=2.63391e-4, cosine=12_500)


@pytest.mark.parametrize(
    ("config", "step", "wanted"),
    [
        (LR_7B, 0, 0.0),
        (LR_7B, 1, 4e-9),
        (LR_7B, 50_000, 2e-4),
        (LR_7B, 99_999, 3.99996e-4),
        (LR_7B, 100_000, 4e-4),
        (LR_7B, 999_999, 4e-4),
        (TEMPERATURE_7B, 50_000, 0.055),
        (TEMPERATURE_7B, 99_999, 0.0699997),
        (TEMPERATURE_7B, 100_000, 0.07),
        (GRAM_WEIGHT, 1_000_000, 0.0),
        (GRAM_WEIGHT, 1_000_500, 1.00157),
        (GRAM_WEIGHT, 1_000_999, 2.0),
        (GRAM_WEIGHT, 1_199_999, 2.0),
        (LOCAL_WEIGHT, 1_000_500, 0.749607),
        (LOCAL_WEIGHT, 1_001_000, 0.5),
        (LR_HIGH_RESOLUTION, 0, 0.0),
        (LR_HIGH_RESOLUTION, 5_000, 3.53609e-5),
        (LR_HIGH_RESOLUTION, 9_999, 7.0710678e-5),
        (LR_HIGH_RESOLUTION, 29_999, 7.0710678e-5),
        (LR_DISTILLATION, 6_250, 1.31712e-4),
    ],
)
def test_v2_reference_values(config, step, wanted):
    assert at(config, step, steps=1_200_000) == pytest.approx(wanted, rel=PRINTED, abs=1e-12)


LR_VITL = schedule(5.65685425e-3, family="v1", start=0.0, end=1e-6, warmup=12_500)


@pytest.mark.parametrize(
    ("config", "step", "wanted"),
    [
        (LR_VITL, 1, 4.52585e-7),
        (LR_VITL, 12_499, 5.65685425e-3),  # the warm-up includes its end
        (LR_VITL, 68_750, 2.82892712e-3),
        (LR_VITL, 124_999, 1.0000011e-6),
        (LR_VITL, 125_000, 1e-6),
        (schedule(0.04, family="v1", end=0.4), 62_500, 0.22),
        (schedule(0.992, family="v1", end=1.0), 62_500, 0.996),
        (schedule(0.07, family="v1", start=0.04, warmup=37_500), 18_750, 0.0550004),
    ],
)
def test_v1_reference_values(config, step, wanted):
    # 68,750 lies where the cosine is steepest: float32 leaves an error of some 1e-7 x π/2.
    assert at(config, step, steps=125_000) == pytest.approx(wanted, rel=PRINTED)


def v2_array(start, peak, end, warmup, cosine, steps):
    """The definition of the family, in float64: three arrays after each other."""
    rising = np.linspace(start, peak, warmup, endpoint=False)
    points = steps - warmup if cosine is None else cosine
    falling = (peak - end) * (1 + np.cos(np.linspace(0, np.pi, points))) / 2 + end
    return np.concatenate([rising, falling, np.full(steps, end)])[:steps]


def v1_array(start, peak, end, warmup, truncation, steps):
    rising = np.linspace(start, peak, warmup)
    points = steps - warmup
    length = int((1 + truncation) * points)
    falling = end + (peak - end) * (1 + np.cos(np.pi * np.arange(length) / length)) / 2
    falling = falling[:points]
    if truncation:  # stretched so that the last point is ``end``
        low, high = falling[-1], falling[0]
        falling = end + (peak - end) * (falling - low) / (high - low)
    return np.concatenate([rising, falling])


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("cosine", [None, 1, 9])
def test_v2_equals_arrays(warmup, cosine):
    keys = dict(start=0.2, end=0.1, warmup=warmup, cosine=cosine)
    steps = np.arange(24)
    got = schedules.value(schedule(1.0, **keys), steps, steps=24)
    # rtol: a few float32 roundings.
    np.testing.assert_allclose(got, v2_array(peak=1.0, steps=24, **keys), rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 2, 7])
@pytest.mark.parametrize("truncation", [0.0, 0.25])
def test_v1_equals_arrays(warmup, truncation):
    keys = dict(start=0.2, end=0.1, warmup=warmup, truncation=truncation)
    steps = np.arange(24)
    got = schedules.value(schedule(1.0, family="v1", **keys), steps, steps=24)
    # rtol: a few float32 roundings.
    np.testing.assert_allclose(got, v1_array(peak=1.0, steps=24, **keys), rtol=1e-6)


@pytest.mark.parametrize("family", ["v1", "v2"])
def test_traced_step_gives_the_same(family):
    config = schedule(1.0, family=family, start=0.0, end=0.1, warmup=5)
    traced = jax.jit(lambda step: schedules.value(config, step, steps=20))
    for step in (0, 4, 5, 19, 25):
        # rtol: the compiler may fuse multiply and add.
        np.testing.assert_allclose(traced(step), at(config, step, steps=20), rtol=1e-6, atol=1e-8)


def test_constant_is_exact_everywhere():
    config = schedule(0.04)
    assert at(config, 0, steps=10) == at(config, 9, steps=10) == np.float32(0.04)


def test_complement_keeps_its_digits_near_one():
    momentum = schedule(0.9999, end=1.0)
    rest = schedules.complement(momentum)
    # rtol: float32 rounding of 1e-4 itself; 1 - float32(0.9999) would be off by 2e-4.
    np.testing.assert_allclose(at(rest, 0, steps=100), 1e-4, rtol=1e-6)
    for step in (0, 37, 99):
        # atol: half a float32 step below 1.
        total = at(rest, step, steps=100) + at(momentum, step, steps=100)
        np.testing.assert_allclose(total, 1.0, atol=6e-8)


@pytest.mark.parametrize(
    ("rule", "images", "factor"),
    [
        ("sqrt_1024", 4096, 8.0),
        ("sqrt_1024", 2048, 5.65685),
        ("sqrt_1024", 1776, 5.26783),
        ("linear_256", 1024, 4.0),
        ("none", 4096, 1.0),
    ],
)
def test_lr_scaling_factors(rule, images, factor):
    for family in ("v1", "v2"):
        lr = schedule(1e-3, family=family, start=1e-5, end=1e-4)
        scaled = schedules.scale_lr(lr, rule=rule, images=images)
        assert scaled.peak == pytest.approx(1e-3 * factor, rel=PRINTED)
        assert scaled.start == 1e-5
        # The cosine family leaves its final value alone.
        assert scaled.end == pytest.approx(1e-4 * (factor if family == "v2" else 1), rel=PRINTED)


def test_gram_anchor_lr():
    lr = schedules.scale_lr(
        schedule(3e-5, start=0.0, warmup=100_000), rule="sqrt_1024", images=4096
    )
    assert at(lr, 100_000, steps=1_200_000) == pytest.approx(2.4e-4, rel=PRINTED)


def test_unknown_rule():
    with pytest.raises(ConfigError, match="lr_scaling is 'cubic', wanted one of sqrt_1024"):
        schedules.scale_lr(schedule(1.0), rule="cubic", images=8)
