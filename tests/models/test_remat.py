import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name

from dinov3_jax.models import remat


@pytest.mark.parametrize("name", ["none", "dots", "full", "qkv", "qkv+attention+proj+fc1"])
def test_known(name):
    assert remat.is_known(name)


@pytest.mark.parametrize("name", ["", "some", "qkv+", "qkv+none", "qkv, proj"])
def test_unknown(name):
    assert not remat.is_known(name)


def kept(policy):
    """Shapes [2, ...] that the backward pass of one block gets from the forward pass."""

    def block(x):
        hidden = checkpoint_name(jnp.sin(x @ jnp.ones((4, 3))), "qkv")
        return checkpoint_name(jnp.cos(hidden @ jnp.ones((3, 5))), "fc1").sum()

    _, pullback = jax.vjp(remat.checkpoint(block, policy), jnp.ones((2, 4)))
    shapes = {x.shape for x in jax.tree.leaves(pullback)}
    return {shape for shape in shapes if shape[:1] == (2,)} - {(2, 4)}  # the input apart


def test_policies_keep_what_they_say():
    assert kept("full") == set()
    assert kept("qkv") == {(2, 3)}
    assert {(2, 3), (2, 5)} <= kept("dots")
    assert {(2, 3), (2, 5)} <= kept("none")


def test_names_keep_the_sums_of_norms_too():
    """Not what lies between them: the backward pass has x."""

    def norm(x):
        centred = x - x.mean(1, keepdims=True)
        return (centred / jnp.sqrt((centred**2).mean(1, keepdims=True))).sum(1) * x[:, 0]

    _, pullback = jax.vjp(remat.checkpoint(norm, "qkv"), jnp.ones((2, 4)))
    assert sorted(x.shape for x in jax.tree.leaves(pullback) if x.shape) == [(2,)] * 3 + [(2, 4)]
    _, pullback = jax.vjp(remat.checkpoint(norm, "full"), jnp.ones((2, 4)))
    assert [x.shape for x in jax.tree.leaves(pullback) if x.shape] == [(2, 4)]
