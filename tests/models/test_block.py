import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dinov3_jax.models import rope
from dinov3_jax.models.block import Block, kept_samples
from tests.models.modules import build, student
from tests.reference import det

GROUPS, SAMPLES, TOKENS = 3, 8, 7
X = jnp.asarray(det(GROUPS, SAMPLES, TOKENS, 16))


def sincos():
    angles = rope.angles(rope.coordinates(2, 2), rope.periods(8, base=100.0))
    angles = angles[None, None, :, None, :]  # [1, 1, N, 1, C]
    return jnp.sin(angles), jnp.cos(angles)


def make(*, silent=(), **changes):
    """A block; the branches named in ``silent`` ("attention", "ffn") return 0."""
    block = build(lambda rngs: Block(student(**changes), rngs=rngs))
    for name in silent:
        last = {"attention": block.attn.proj, "ffn": block.ffn.fc2}[name]
        last.kernel[...] *= 0.0
        last.bias[...] *= 0.0
    return block


def keys(seed=0):
    return jax.random.split(jax.random.key(seed), GROUPS)


@functools.partial(jax.jit, static_argnums=0)
def _run(graph, params, x, keys):
    return nnx.merge(graph, params)(x, sincos(), keys)


def run(block, x=X, keys=None):
    return _run(*nnx.split(block), x, keys)


def changed(block, seed=0):
    """Which samples a training pass changed, bool [S, b]."""
    return np.asarray((run(block, keys=keys(seed)) != X).any(axis=(2, 3)))


@pytest.mark.parametrize(
    ("samples", "drop_path", "kept"),
    [(32, 0.4, 19), (64, 0.3, 44), (8, 0.0, 8), (1, 0.9, 1), (4, 0.9, 1), (10, 0.1, 9)],
)
def test_kept_samples(samples, drop_path, kept):
    assert kept_samples(samples, drop_path) == kept


def test_two_residual_branches_after_norms():
    block = make()
    middle = X + block.ls1(block.attn(block.norm1(X), sincos()))
    wanted = middle + block.ls2(block.ffn(block.norm2(middle)))
    # atol: float32, another order of sums.
    np.testing.assert_allclose(run(block), wanted, atol=1e-5)


def test_without_layerscale():
    block = make(layerscale=None)
    assert not hasattr(block, "ls1")
    middle = X + block.attn(block.norm1(X), sincos())
    wanted = middle + block.ffn(block.norm2(middle))
    np.testing.assert_allclose(run(block), wanted, atol=1e-5)  # as above


@pytest.mark.parametrize("layerscale", [0.5, None])
@pytest.mark.parametrize("silent", ["attention", "ffn"])
def test_stochastic_depth_changes_exactly_n_samples_of_each_group(silent, layerscale):
    """n = int(8 · 0.6) = 4, times b/n = 2."""
    block = make(silent=(silent,), drop_path=0.4, layerscale=layerscale)
    for seed in range(5):
        rows = changed(block, seed)
        np.testing.assert_array_equal(rows.sum(axis=1), 4)
    out, whole = run(block, keys=keys()), run(block)
    rows = changed(block)
    # atol: float32; times 2 is exact.
    np.testing.assert_allclose((out - X)[rows], 2 * (whole - X)[rows], atol=1e-5)
    np.testing.assert_array_equal(out[~rows], X[~rows])


def test_branches_draw_their_own_samples():
    attention = changed(make(silent=("ffn",), drop_path=0.4))
    ffn = changed(make(silent=("attention",), drop_path=0.4))
    assert (attention != ffn).any()


def test_groups_draw_their_own_samples():
    rows = changed(make(silent=("ffn",), drop_path=0.4))
    assert (rows[0] != rows[1]).any() or (rows[1] != rows[2]).any()


def test_a_group_does_not_depend_on_the_others():
    block = make(drop_path=0.4)
    alone = run(block, X[1:2], keys()[1:2])
    # atol: float32, another batch size may sum in another order.
    np.testing.assert_allclose(run(block, keys=keys())[1:2], alone, atol=1e-5)


def test_every_sample_is_dropped_equally_often():
    block = make(silent=("ffn",), drop_path=0.5)
    many = jax.vmap(lambda key: run(block, keys=jax.random.split(key, GROUPS)) != X)
    counts = many(jax.random.split(jax.random.key(1), 200)).any(axis=(3, 4)).mean(axis=(0, 1))
    # 600 draws of a coin: standard deviation 0.02; five of them.
    np.testing.assert_allclose(counts, 0.5, atol=0.1)


def test_gradient_reaches_kept_samples_only():
    block = make(silent=("ffn",), drop_path=0.4)
    branch = jax.grad(lambda x: (run(block, x, keys()) - x).sum())(X)
    reached = np.asarray((branch != 0).any(axis=(2, 3)))
    np.testing.assert_array_equal(reached, changed(block))


def test_rate_zero_needs_no_draw():
    block = make(drop_path=0.0)
    np.testing.assert_array_equal(run(block, keys=keys()), run(block))
