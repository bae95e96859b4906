import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.evals.classification import attentive_head as head

HEADS, WIDTH = 2, 24
TOKENS = np.random.default_rng(0).normal(size=(2, 12, 5)).astype(np.float32)  # 3 frames of 2 x 2


@pytest.fixture(scope="module")
def forward():
    params = head.init(jax.random.key(0), inputs=5, classes=4, width=WIDTH, blocks=2)
    compiled = jax.jit(
        lambda tokens, positions: head.logits(params, tokens, positions, heads=HEADS)
    )
    return lambda tokens, positions: np.asarray(compiled(tokens, positions))


PLACES = np.asarray(head.positions(3, 2, 2))
# rtol, atol: float32 sums over tokens in another order; logits are of order 1.
NEAR = dict(rtol=1e-4, atol=1e-4)


def test_positions_are_frame_by_frame():
    assert PLACES.shape == (12, 3)
    np.testing.assert_allclose(
        PLACES[[0, 3, 11]], [[0, 0.25, 0.25], [0, 0.75, 0.75], [1, 0.75, 0.75]]
    )
    np.testing.assert_allclose(head.positions(1, 1, 2), [[0, 0.5, 0.25], [0, 0.5, 0.75]])


def test_permuting_tokens_with_their_positions_changes_nothing(forward):
    order = np.random.default_rng(1).permutation(12)
    expected = forward(TOKENS, PLACES)
    assert expected.shape == (2, 4)
    np.testing.assert_allclose(forward(TOKENS[:, order], PLACES[order]), expected, **NEAR)
    # ... and either alone changes everything.
    assert np.abs(forward(TOKENS[:, order], PLACES) - expected).max() > 0.1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_axis_of_a_position_counts(forward, axis):
    moved = PLACES.copy()
    moved[:, axis] = moved[::-1, axis]
    assert np.abs(forward(TOKENS, moved) - forward(TOKENS, PLACES)).max() > 0.05


def test_clips_do_not_see_each_other(forward):
    expected = forward(TOKENS, PLACES)
    other = TOKENS.copy()
    other[1] += 1
    np.testing.assert_allclose(forward(other, PLACES)[0], expected[0], **NEAR)


def test_rotary_scores_depend_on_differences_of_positions_only():
    """Turned q and k of one head: their products, with all positions moved by one vector."""
    q, k = jax.random.normal(jax.random.key(1), (2, 12, HEADS, WIDTH // HEADS))

    def products(positions):
        angles = head._angles(head._by_head(jnp.asarray(positions), HEADS), WIDTH // HEADS // 2)
        sin, cos = (f(jnp.concatenate([angles, angles], -1)) for f in (jnp.sin, jnp.cos))
        turned = (head.rope.rotate(x, sin, cos) for x in (q, k))
        return np.asarray(jnp.einsum("tac,sac->ats", *turned))

    found = products(PLACES)
    # Angles reach 2 pi 2 / 0.3 = 42, of which float32 keeps 4e-6; products are of order 10.
    np.testing.assert_allclose(products(PLACES + np.array([0.3, 0.1, -0.2])), found, atol=1e-3)
    assert np.abs(products(1.3 * PLACES) - found).max() > 0.1


def test_heads_that_cannot_be_are_refused():
    head.check(24, 2)
    for width, heads in ((25, 2), (8, 2), (24, 0), (26, 4)):
        with pytest.raises(ConfigError, match=f"width is {width}, heads {heads}; wanted"):
            head.check(width, heads)
