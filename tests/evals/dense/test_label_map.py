import numpy as np

from dinov3_jax.evals.dense.label_map import label_map
from dinov3_jax.evals.dense.sliding import axis


def axes(size, out, window=16, stride=11, cells=4):
    return [axis(a, b, window=window, stride=stride, cells=cells) for a, b in zip(size, out)]


def test_it_is_the_argmax_of_the_averaged_logits():
    rng = np.random.default_rng(0)
    rows, columns = axes((16, 27), (20, 300))  # wider than one tile
    logits = rng.standard_normal((1, 2, 4, 4, 5)).astype(np.float32)
    total = np.einsum("yia,xjb,ijabc->yxc", rows, columns, logits, dtype=np.float64)
    got = label_map(logits, rows, columns)
    assert (got.shape, got.dtype) == ((20, 300), np.uint8)
    top = np.sort(total, axis=-1)
    clear = top[..., -1] - top[..., -2] > 1e-5  # nearer ones may change sides in float32
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(got[clear], total.argmax(-1)[clear])


def test_windows_that_agree_leave_no_seam():
    """A map of two halves, seen by three overlapping windows: the border stays where it is."""
    whole = np.zeros((16, 38), int)
    whole[:, 19:] = 1
    rows, columns = axes((16, 38), (16, 38), cells=16)
    first = (0, 11, 22)
    logits = np.stack([np.eye(2)[whole[:, x : x + 16]] for x in first])[None]
    np.testing.assert_array_equal(label_map(logits.astype(np.float32), rows, columns), whole)


def test_equal_logits_are_the_lowest_class():
    rows, columns = axes((16, 16), (16, 16))
    assert (label_map(np.ones((1, 1, 4, 4, 3), np.float32), rows, columns) == 0).all()
