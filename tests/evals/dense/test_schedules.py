import numpy as np
import pytest

from dinov3_jax.evals.dense import schedules

SEGMENTATION = dict(steps=40_000, warmup=1_500)
DEPTH = dict(steps=38_400, warmup=12_800)
DIGITS = dict(rtol=1e-5)  # the reference values have six


# Learning rates of the reference implementation, by iteration.
@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 1e-9), (1, 1e-9), (2, 6.6765e-7), (100, 6.58376e-5), (751, 4.906255e-4),
        (1500, 9.61883e-4), (1501, 9.965296e-4), (20_000, 5.0e-4),
    ],
)  # fmt: skip
def test_segmentation(step, lr):
    np.testing.assert_allclose(1e-3 * schedules.segmentation(step, **SEGMENTATION), lr, **DIGITS)


def test_segmentation_ends_at_nothing():
    # Two digits: the square of π / 80000 / 2.
    assert 1e-3 * schedules.segmentation(39_999, **SEGMENTATION) == pytest.approx(1.5e-12, rel=0.05)


@pytest.mark.parametrize(
    ("step", "lr", "beta1"),
    [
        (0, 3e-7, 0), (6400, 1.40252e-4, 0), (12_799, 2.25293e-4, 0), (12_800, 2.24992e-4, 0.85),
        (25_600, 7.49984e-5, 0.9), (38_399, 1.2e-8, 0.95),
    ],
)  # fmt: skip
def test_depth(step, lr, beta1):
    np.testing.assert_allclose(3e-4 * schedules.depth(step, **DEPTH), lr, **DIGITS)
    np.testing.assert_allclose(schedules.depth_beta1(step, **DEPTH), beta1, atol=1e-6)


def test_without_warmup():
    assert schedules.segmentation(0, steps=10, warmup=0) == pytest.approx(np.cos(np.pi / 20) ** 2)
    assert schedules.depth_beta1(0, steps=10, warmup=0) == pytest.approx(0.85)
