import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from dinov3_jax.config import HeadConfig, MeshConfig
from dinov3_jax.distributed import sharding
from dinov3_jax.distributed.mesh import batch_sharding, make_mesh
from dinov3_jax.models.heads import ProjectionHead
from tests import collectives
from tests.models.modules import build, weights
from tests.reference import det

CONFIG = HeadConfig(prototypes=12, hidden=10, bottleneck=6, layers=3)


def head(config=CONFIG, dtype="float32"):
    return build(lambda rngs: ProjectionHead(8, config, dtype=dtype, rngs=rngs))


@pytest.mark.parametrize(
    ("dim", "config", "parameters"),
    [
        (1024, HeadConfig(65_536, 2048, 256, 3), 23_597_312),
        (4096, HeadConfig(262_144, 8192, 512, 3), 239_092_224),
        (4096, HeadConfig(98_304, 4096, 384, 3), 72_884_608),
        (1024, HeadConfig(262_144, 8192, 512, 3), 213_926_400),
        (384, HeadConfig(262_144, 8192, 512, 3), 208_683_520),
        (1024, HeadConfig(98_304, 4096, 384, 3), 60_301_696),
    ],
)
def test_published_sizes(dim, config, parameters):
    make = lambda: ProjectionHead(dim, config, dtype="float32", rngs=nnx.Rngs(0))  # noqa: E731
    state = nnx.to_pure_dict(nnx.state(nnx.eval_shape(make)))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == parameters


def by_hand(x, w, layers):
    for i in range(1, layers + 1):
        x = x @ w[f"fc{i}"]["kernel"] + w[f"fc{i}"]["bias"]
        if i < layers:  # exact GELU between the layers, none after the last
            x = x * 0.5 * (1 + scipy.special.erf(x / np.sqrt(2)))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_equals_numpy(layers):
    module = head(HeadConfig(prototypes=12, hidden=10, bottleneck=6, layers=layers))
    x, w = 3 * det(4, 5, 8), weights(module)
    vectors = by_hand(x, w, layers)
    np.testing.assert_allclose(module.project(jnp.asarray(x)), vectors, atol=2e-6)  # float32
    wanted = vectors @ w["prototypes"]["kernel"]
    np.testing.assert_allclose(module(jnp.asarray(x)), wanted, atol=5e-6)  # float32
    assert "bias" not in w["prototypes"]


def test_vectors_are_float32_of_length_one_under_bfloat16():
    module = head(dtype="bfloat16")
    vectors = module.project(jnp.asarray(det(5, 8), jnp.bfloat16))
    assert vectors.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1.0, rtol=1e-6)  # float32
    assert module(jnp.asarray(det(5, 8), jnp.bfloat16)).dtype == jnp.bfloat16


def test_zero_features_have_a_finite_gradient():
    module = head()
    for i in (1, 2, 3):
        getattr(module, f"fc{i}").bias[...] *= 0.0
    gradient = jax.grad(lambda x: module(x).sum())(jnp.zeros((2, 8)))
    assert jnp.isfinite(gradient).all()


def test_devices_gather_weights_not_activations():
    """With weights larger than activations the compiler alone would split the head by width."""
    mesh = make_mesh(MeshConfig(1, 8, 1, 1))
    config = HeadConfig(prototypes=512, hidden=128, bottleneck=64, layers=3)
    make = lambda: ProjectionHead(64, config, dtype="float32", rngs=nnx.Rngs(0))  # noqa: E731
    graph, state = nnx.split(nnx.eval_shape(make))
    shapes = {"dino_head": nnx.to_pure_dict(state)}
    shardings = sharding.named(sharding.param_specs(shapes, mesh), mesh)
    abstract = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
    params = jax.tree.map(abstract, shapes, shardings)
    features = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=batch_sharding(mesh))
    with jax.set_mesh(mesh):
        logits = jax.jit(lambda params, x: nnx.merge(graph, params["dino_head"])(x))
        program = logits.lower(params, features).compile().as_text()
    assert [kind for kind, _ in collectives.find(program)] == ["all-gather"] * 4
