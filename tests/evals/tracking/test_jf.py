import math

import numpy as np
import pytest
from scipy import ndimage

from dinov3_jax.evals.tracking.jf import boundary_accuracy, region_similarity


def square(shift=0):
    mask = np.zeros((100, 100), bool)
    mask[40:60, 40 + shift : 60 + shift] = True
    return mask


@pytest.mark.parametrize("shift", range(21))
def test_region_of_a_shifted_square(shift):
    got = region_similarity(square(shift), square())
    assert got == pytest.approx((20 - shift) / (20 + shift), abs=1e-12)  # one division


@pytest.mark.parametrize(("shift", "wanted"), list(enumerate([1, 1, 1, 0.55, 0.525, 0.5])))
def test_boundary_of_a_shifted_square(shift, wanted):
    """The tolerance is ceil(0.008 * 141.4) = 2 pixels. Values of the challenges' own program."""
    assert boundary_accuracy(square(shift), square()) == pytest.approx(wanted, abs=1e-12)


def test_empty_masks():
    nothing = np.zeros((100, 100), bool)
    for measure in (region_similarity, boundary_accuracy):
        assert measure(nothing, nothing) == 1.0
        assert measure(nothing, square()) == measure(square(), nothing) == 0.0


def test_a_mask_of_the_whole_frame_has_no_boundary():
    everything = np.ones((100, 100), bool)
    assert boundary_accuracy(everything, everything) == 1.0
    assert boundary_accuracy(everything, square()) == 0.0
    assert region_similarity(everything, square()) == 0.04


def test_boundaries_are_widened_by_a_disk():
    """The same with boundaries drawn and dilated as pictures, on random blobs."""
    rng = np.random.default_rng(0)
    for height, width in ((70, 120), (300, 200)):
        first, second = (
            ndimage.gaussian_filter(rng.standard_normal((height, width)), 8) > 0 for _ in range(2)
        )
        reach = math.ceil(0.008 * math.hypot(height, width))
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        disk = y**2 + x**2 <= reach**2
        edges = []
        for mask in (first, second):
            lowest, highest = (
                f(mask, size=2, origin=-1, mode="nearest")
                for f in (ndimage.minimum_filter, ndimage.maximum_filter)
            )
            edges.append(lowest != highest)
        wide = [ndimage.binary_dilation(edge, disk) for edge in edges]
        precision = (edges[0] & wide[1]).sum() / edges[0].sum()
        recall = (edges[1] & wide[0]).sum() / edges[1].sum()
        wanted = 2 * precision * recall / (precision + recall)
        assert boundary_accuracy(first, second) == pytest.approx(wanted, abs=1e-12)
        assert 0.1 < wanted < 0.9


@pytest.mark.parametrize("bad", [np.zeros((100, 99), bool), np.zeros((100, 100), np.uint8)])
def test_other_shapes_and_types_are_refused(bad):
    for measure in (region_similarity, boundary_accuracy):
        with pytest.raises(ValueError, match=r"truth bool \[100, 100\]; wanted bool"):
            measure(bad, square())
