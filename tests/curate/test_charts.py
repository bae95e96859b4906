import re

import numpy as np
import pytest

from dinov3_jax.curate import charts


@pytest.mark.parametrize("largest", [0, 1, 2, 3, 4, 5, 8, 9, 1000])
def test_every_size_has_one_bin(largest):
    edges = charts.bin_edges(largest)
    assert edges[:3].tolist() == [0, 1, 2]
    assert edges[-1] > largest
    assert np.histogram(np.arange(largest + 1), edges)[0].sum() == largest + 1
    assert all(edges[i + 1] - 1 == 2 ** (i - 1) for i in range(2, len(edges) - 1))


def test_a_histogram_tells_the_counts():
    svg = charts.sizes_histogram(np.array([1, 1, 7]), np.array([1, 2, 2]))
    # Bins 0, 1, 2, 3-4, 5-8: two of one image and one of seven before; one of 1, two of 2 after.
    texts = re.findall(r">([^<]+)</text>", svg)
    assert texts == ["0", "2", "1", "1", "2", "2", "3", "1", "5"]
    assert svg.count("<rect") == 10


def test_class_bars_are_shares_of_each_set():
    bars = charts.class_bars(["a<b", "c"], np.array([1, 3]), np.array([1, 1]))
    assert bars.index("c</span>") < bars.index("a&lt;b")  # largest first
    assert "75.0 % (3)<br>50.0 % (1)" in bars
    assert "width:100.0%" in bars


def test_many_classes_are_folded_away():
    names = [f"class {c}" for c in range(charts.CLASSES + 3)]
    counts = np.arange(len(names), 0, -1)
    bars = charts.class_bars(names, counts, counts)
    assert "<summary>3 smaller classes</summary>" in bars
    assert bars.index("class 19<") < bars.index("<details>") < bars.index("class 20<")
    few = charts.class_bars(names[:-3], counts[:-3], counts[:-3])
    assert "<details>" not in few
