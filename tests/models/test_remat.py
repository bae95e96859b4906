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
