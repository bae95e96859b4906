"""Hyper-parameters as functions of the step.

Two families. "v2" (the 7B recipes): linear warm-up that stops short of the peak, a cosine with
both ends included, then a constant. "v1" (the ImageNet recipe, as in DINOv2): linear warm-up that
reaches the base value, then a cosine to the last step, optionally truncated.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from dinov3_jax.config import ConfigError, ScheduleConfig


def value(schedule: ScheduleConfig, step, *, steps: int):
    """The schedule at 0-based ``step`` of a run of ``steps``: float32 scalar, traceable in step.

    v2: warm-up start + (peak-start)·i/w for i < w; then, with n = ``cosine`` (or all that remain)
    points, end + (peak-end)(1+cos(π(i-w)/(n-1)))/2; then ``end``.
    v1: warm-up start + (peak-start)·i/(w-1); then end + (peak-end)(1+cos(π(i-w)/n))/2, n = steps-w;
    ``end`` from step ``steps`` on.
    """
    step = jnp.asarray(step, jnp.float32)
    warmup = schedule.warmup
    if schedule.family == "v1":
        return _v1(schedule, step, steps)
    points = steps - warmup if schedule.cosine is None else schedule.cosine
    rising = schedule.start + (schedule.peak - schedule.start) * step / max(warmup, 1)
    phase = jnp.clip((step - warmup) / max(points - 1, 1), 0.0, 1.0)
    falling = schedule.end + (schedule.peak - schedule.end) * _cosine(phase)
    falling = jnp.where(step - warmup >= points, schedule.end, falling)
    return jnp.where(step < warmup, rising, falling)


def _v1(schedule, step, steps):
    start, peak, end, warmup = schedule.start, schedule.peak, schedule.end, schedule.warmup
    points = steps - warmup
    rising = start + (peak - start) * step / max(warmup - 1, 1)
    # Truncation: the first `points` of a longer cosine, stretched to end exactly at `end`.
    length = int((1.0 + schedule.truncation) * points)
    curve = _cosine(jnp.clip((step - warmup) / max(length, 1), 0.0, 1.0))
    if schedule.truncation:
        lowest = _cosine(np.float32((points - 1) / max(length, 1)))
        curve = (curve - lowest) / (1.0 - lowest)
    falling = jnp.where(step >= steps, end, end + (peak - end) * curve)
    return jnp.where(step < warmup, rising, falling)


def _cosine(phase):
    """(1 + cos(π·phase)) / 2, written as cos² so that small values keep their digits."""
    return jnp.square(jnp.cos(0.5 * jnp.pi * phase))


def complement(schedule: ScheduleConfig) -> ScheduleConfig:
    """The schedule of 1 - value, exact in float32 where the value is near 1."""
    return dataclasses.replace(
        schedule, start=1.0 - schedule.start, peak=1.0 - schedule.peak, end=1.0 - schedule.end
    )


def scale_lr(schedule: ScheduleConfig, *, rule: str, images: int) -> ScheduleConfig:
    """The learning-rate schedule for a global batch of ``images``.

    Factor 4·√(images/1024) ("sqrt_1024"), images/256 ("linear_256") or 1 ("none"). It multiplies
    the peak, and in family v2 also the end.
    """
    factors = {
        "sqrt_1024": 4.0 * (images / 1024.0) ** 0.5,
        "linear_256": images / 256.0,
        "none": 1.0,
    }
    if rule not in factors:
        raise ConfigError(f"optim.lr_scaling is {rule!r}, wanted one of {', '.join(factors)}")
    end = schedule.end * factors[rule] if schedule.family == "v2" else schedule.end
    return dataclasses.replace(schedule, peak=schedule.peak * factors[rule], end=end)
