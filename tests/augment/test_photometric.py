"""Against the host's operations, which are tested against Pillow."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.augment import photometric
from dinov3_jax.data import color

ORDERS = list(itertools.permutations(range(4)))
jitter, blur = jax.jit(photometric.jitter), jax.jit(photometric.blur)
NONE = np.float32([1, 1, 1, 0])


def difference(got, want):
    return np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64))


@pytest.mark.parametrize(
    ("number", "factor"),
    [(0, 0.6), (0, 1.4), (1, 0.6), (1, 1.4), (2, 0.0), (2, 0.8), (2, 1.2), (3, -0.1), (3, 0.1)],
)
def test_each_operation(photo, number, factor):
    factors = NONE.copy()
    factors[number] = factor
    got = jitter(np.float32(photo), np.array(True), np.arange(4, dtype=np.int32), factors)
    operation = (color.brightness, color.contrast, color.saturation, color.hue)[number]
    error = difference(got, operation(photo, factor))
    # The host cuts to whole levels (at most 1, and 1 of the mean or grey), and its hue is of 8
    # bits: a step of 1/256 turn is up to 6 levels of a channel, there and back.
    assert error.mean() < 1
    assert error.max() <= (16 if number == 3 else 2)


def test_all_orders_at_once(photo):
    """Crops with different orders in one batch, each as on the host."""
    rng = np.random.default_rng(0)
    factors = rng.uniform([0.6, 0.6, 0.8, -0.1], [1.4, 1.4, 1.2, 0.1], (24, 4)).astype(np.float32)
    crops = np.stack([photo] * 24)
    got = jitter(np.float32(crops), np.ones(24, bool), np.int32(ORDERS), factors)
    for i, order in enumerate(ORDERS):
        want = color.jitter(photo, order, factors[i].tolist())
        assert difference(got[i], want).mean() < 2  # four roundings on the host, hue of 8 bits


def test_jitter_only_where_it_applies(photo):
    crops = jnp.float32(np.stack([photo] * 2))
    order = jnp.tile(jnp.arange(4, dtype=jnp.int32), (2, 1))
    factors = jnp.tile(jnp.float32([0.5, 1, 1, 0]), (2, 1))
    got = jitter(crops, jnp.array([False, True]), order, factors)
    assert np.array_equal(got[0], photo)
    # A hue turn by 0 goes through float32 HSV.
    np.testing.assert_allclose(got[1], photo * 0.5, atol=1e-3)


def test_hue_turns_primaries():
    red, green, blue = np.eye(3, dtype=np.float32) * 200
    for turns, want in [(1 / 3, [green, blue, red]), (-1 / 3, [blue, red, green]), (1.0, None)]:
        got = photometric.turn_hue(jnp.stack([jnp.asarray(c) for c in (red, green, blue)]), turns)
        want = [red, green, blue] if want is None else want
        np.testing.assert_allclose(got, np.stack(want), atol=1e-3)  # float32, up to 6 turns


def test_hue_keeps_greys(photo):
    grey = jnp.float32(np.repeat(photo[..., :1], 3, axis=-1))
    assert np.array_equal(photometric.turn_hue(grey, 0.07), grey)


def test_gray(photo):
    got = photometric.gray(jnp.float32(np.stack([photo] * 2)), jnp.array([True, False]))
    assert (
        difference(got[0], color.gray(photo)).max() <= 0.6
    )  # rounding of level and weights on the host
    assert np.array_equal(got[1], photo)


@pytest.mark.parametrize("size", [3, 8, 64])
def test_blur(photo, size):
    part = np.ascontiguousarray(photo[:size, :size])
    sigma = np.float32([0, 0.1, 0.5, 1.0, 2.0])
    got = blur(jnp.float32(np.stack([part] * 5)), sigma)
    assert np.array_equal(got[0], part)
    for i in range(1, 5):
        # Half a level of rounding and one of OpenCV's kernel of 8 fractional bits.
        assert difference(got[i], color.blur(part, float(sigma[i]))).max() <= 1.5


def test_solarize(photo):
    got = photometric.solarize(jnp.float32(np.stack([photo] * 2)), jnp.array([True, False]))
    assert np.array_equal(got[0], color.solarize(photo))
    assert np.array_equal(got[1], photo)


def test_solarize_is_continuous():
    """So that a level which rounds otherwise on the host still comes out alike."""
    got = photometric.solarize(jnp.float32([[[127.4], [127.6]]]), jnp.array(True))
    assert difference(got[0, 0], got[0, 1]).max() < 0.3
