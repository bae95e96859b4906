import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from dinov3_jax.evals import curves


def test_series_sorts_and_lets_the_resumed_run_win():
    rows = [
        {"step": 20, "x": 2.0},
        {"step": 10, "x": 1.0},
        {"step": 30},
        {"step": 20, "x": 5.0},
    ]
    curve = curves.series(rows, "x")
    np.testing.assert_array_equal(curve.steps, [10, 20])
    np.testing.assert_array_equal(curve.values, [1.0, 5.0])
    assert curves.last(curve) == 5.0


def test_series_turns_what_is_not_finite_into_gaps():
    rows = [{"step": i, "x": x} for i, x in enumerate([1.0, None, math.inf, math.nan])]
    curve = curves.series(rows, "x")
    np.testing.assert_array_equal(np.isfinite(curve.values), [True, False, False, False])
    assert curves.last(curve) == 1.0
    assert curves.last(curves.series(rows, "absent")) is None


def test_thinning_keeps_extremes_and_mean():
    steps = np.arange(0, 30_000, 10)
    values = np.sin(steps / 500.0)
    values[17] = 40.0  # one spike must stay visible
    values[100:130] = np.nan
    thin_steps, middle, low, high = curves._thin(curves.Series(steps, values))
    assert len(thin_steps) <= curves.POINTS
    assert np.nanmax(high) == 40.0
    assert np.nanmin(low) == np.nanmin(values)
    assert np.isnan(middle).any()
    assert (np.diff(thin_steps) > 0).all()


def test_panel_is_a_valid_svg_that_fetches_nothing_and_repeats():
    curve = curves.Series(np.arange(5), np.array([1.0, math.nan, 3.0, 2.0, 1.0]))
    svg, again = (curves.panel([curve], lines=[2.5], healthy=(None, 2.0)) for _ in range(2))
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert svg == again
    assert "var(--s1)" in svg
    assert "var(--good)" in svg
    assert "#0102" not in svg
    assert not re.search(r"(href|src)=\"(?!#)", svg)
    assert "<metadata" not in svg


@pytest.mark.parametrize("value", [0.0, 8.317766, -3e-7, 4e9])
def test_panel_of_a_single_point(value):
    svg = curves.panel([curves.Series(np.array([500]), np.array([value]))], healthy=(1.0, None))
    assert ">500<" in svg


def test_panel_of_nothing_finite_is_an_error():
    with pytest.raises(ValueError, match="no finite value"):
        curves.panel([curves.Series(np.array([1]), np.array([math.nan]))])


def test_tick_labels_fit_the_margin():
    for value in (0.00045, 0.001005, -0.6, 8.2786, 12345.0, 0.0, -0.00012, 2.5e6):
        assert len(curves._number(value)) <= 8, value
    assert curves._number(0.00045) == "4.5e-4"
    assert curves._number(0.0) == "0"
    assert curves._short(12_000) == "12k"
    assert curves._short(1_500_000) == "1.5M"
