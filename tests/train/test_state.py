import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.config import MeshConfig
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.train import state
from tests.tiny import tiny_config

CONFIG = tiny_config()


@pytest.fixture(scope="module")
def states():
    """The state of step 0, born on one device and on 2 x 4."""
    meshes = make_mesh(MeshConfig(1, 1, 1, 1), jax.devices()[:1]), make_mesh(MeshConfig(2, 4, 1, 1))
    return [state.create_state(CONFIG, mesh) for mesh in meshes]


def test_the_teacher_starts_as_the_student_but_is_no_alias(states):
    for made in states:
        jax.tree.map(np.testing.assert_array_equal, made.teacher, made.student)
        pointers = [
            {shard.data.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)
             for shard in leaf.addressable_shards}
            for tree in (made.teacher, made.student)
        ]  # fmt: skip
        assert not pointers[0] & pointers[1]  # the state is donated: a buffer may be there once


def test_the_same_numbers_on_any_mesh(states):
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_another_seed_other_numbers(states):
    fn = jax.jit(lambda key: state.init_state(CONFIG, key).student["backbone"]["cls_token"])
    np.testing.assert_array_equal(
        fn(jax.random.key(CONFIG.seed)), states[0].student["backbone"]["cls_token"]
    )
    assert (fn(jax.random.key(1)) != states[0].student["backbone"]["cls_token"]).all()


def test_everything_is_born_where_it_lives(states):
    mesh = make_mesh(MeshConfig(2, 4, 1, 1))
    shardings = state.state_shardings(CONFIG, mesh)
    made = states[1]
    for x, wanted in zip(jax.tree.leaves(made), jax.tree.leaves(shardings), strict=True):
        assert x.sharding.is_equivalent_to(wanted, x.ndim)
    for tree in (made.student, made.teacher, made.opt_state.mu, made.opt_state.nu):
        kernel = tree["backbone"]["blocks"]["attn"]["qkv"]["kernel"]
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 4, 48)}


def test_moments_and_counters_start_at_zero(states):
    made = states[0]
    for leaf in jax.tree.leaves((made.opt_state, made.step)):
        np.testing.assert_array_equal(leaf, 0)
    assert made.step.dtype == made.opt_state.count.dtype == jnp.int32


def test_centres_are_for_softmax_only(states):
    assert states[0].centers == {}
    config = tiny_config(**{"teacher.centering": "softmax"})
    shapes = jax.eval_shape(lambda: state.init_state(config, jax.random.key(0)))
    assert {k: v.shape for k, v in shapes.centers.items()} == {"cls": (32,), "patch": (24,)}
    shardings = state.state_shardings(config, make_mesh(MeshConfig(1, 8, 1, 1)))
    assert jax.tree.structure(shardings) == jax.tree.structure(shapes)
