"""Learning rates of the two dense probes as functions of the step, as parts of the peak."""

import numpy as np


def segmentation(step: int, *, steps: int, warmup: int) -> float:
    """The part of the peak at 0-based ``step``.

    With s = max(step - 1, 0), for s < warmup: (1 - (1 - s/warmup)(1 - 1e-6)) · (1 - s/steps); then
    (1 + cos(π (s + 1) / steps)) / 2. The two do not meet at ``warmup``: so it is in the protocol,
    whose scheduler also rests once after the first step.
    """
    s = max(step - 1, 0)
    if s < warmup:
        return (1 - (1 - s / warmup) * (1 - 1e-6)) * (1 - s / steps)
    return _cosine((s + 1) / steps)


def depth(step: int, *, steps: int, warmup: int) -> float:
    """The part of the peak at 0-based ``step`` s.

    s < warmup: 1/1000 + (1 + cos(π s / steps)) / 2 · s / warmup; then a cosine of (s + 1) / steps
    from 1 to 1/25000.
    """
    if step < warmup:
        return 1e-3 + _cosine(step / steps) * step / warmup
    last = 1 / 25 / 1000
    return last + (1 - last) * _cosine((step + 1) / steps)


def depth_beta1(step: int, *, steps: int, warmup: int) -> float:
    """Adam's first decay where it cycles: 0 below ``warmup``, then a cosine from 0.85 to 0.95."""
    if step < warmup:
        return 0.0
    return 0.95 - 0.1 * _cosine((step - warmup) / (steps - warmup))


def _cosine(phase: float) -> float:
    """(1 + cos(π·phase)) / 2, written as cos² so that small values keep their digits."""
    return float(np.cos(0.5 * np.pi * phase) ** 2)
