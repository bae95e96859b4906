import numpy as np
import pytest

from dinov3_jax.evals.dense.bilinear import bilinear
from dinov3_jax.evals.dense.sliding import axis, starts, windows


@pytest.mark.parametrize("length", range(512, 901, 37))
def test_windows_cover_everything(length):
    first = starts(length, 512, 341)
    assert len(first) == max(length - 512 + 340, 0) // 341 + 1
    count = np.zeros(length, int)
    for start in first:
        count[start : start + 512] += 1
    assert count.min() >= 1
    assert first[0] == 0
    assert first[-1] + 512 == length


def test_known_starts():
    assert starts(512, 512, 341) == [0]
    assert starts(513, 512, 341) == [0, 1]
    assert starts(853, 512, 341) == [0, 341]
    assert starts(854, 512, 341) == [0, 341, 342]
    assert starts(24, 8, 8) == [0, 8, 16]


@pytest.mark.parametrize("bad", [(511, 512, 341), (512, 512, 0), (512, 256, 257)])
def test_windows_that_do_not_cover(bad):
    with pytest.raises(ValueError, match="1 <= stride <= window <= length"):
        starts(*bad)


def test_a_constant_model_gives_a_constant():
    for length in (16, 21, 30):
        matrix = axis(length, 25, window=16, stride=11, cells=4)
        # float32: weights of a few cells that sum to 1
        np.testing.assert_allclose(matrix.sum(axis=(1, 2)), 1, atol=1e-6)


def test_it_is_the_average_over_windows_done_step_by_step():
    """Each window's logits enlarged, summed into place, divided by the count, resized."""
    rng = np.random.default_rng(0)
    height, width, window, stride, cells = 16, 27, 16, 11, 4
    out = (20, 31)
    down, across = starts(height, window, stride), starts(width, window, stride)
    logits = rng.standard_normal((len(down), len(across), cells, cells, 3)).astype(np.float32)
    total, count = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    up = bilinear(cells, window)
    for i, y in enumerate(down):
        for j, x in enumerate(across):
            place = (slice(y, y + window), slice(x, x + window))
            total[place] += np.einsum("ya,xb,abc->yxc", up, up, logits[i, j])
            count[place] += 1
    wanted = np.einsum(
        "ya,xb,abc->yxc", bilinear(height, out[0]), bilinear(width, out[1]), total / count
    )
    rows, columns = (
        axis(a, b, window=window, stride=stride, cells=cells) for a, b in zip((height, width), out)
    )
    got = np.einsum("yia,xjb,ijabc->yxc", rows, columns, logits)
    np.testing.assert_allclose(got, wanted, atol=1e-5)  # float32 sums of values of size 1


def test_windows_are_cut_where_they_start():
    image = np.random.default_rng(0).integers(0, 256, (16, 27, 3), np.uint8)
    got = windows(image, 16, 11)
    assert got.shape == (1, 2, 16, 16, 3)
    np.testing.assert_array_equal(got[0, 0], image[:, :16])
    np.testing.assert_array_equal(got[0, 1], image[:, 11:])
