import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec as P

from dinov3_jax.config import MeshConfig
from dinov3_jax.distributed import sharding
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.distributed.sharding import BATCH_AXES
from dinov3_jax.models import attention as module, attention_tpu, build
from dinov3_jax.models.attention import attention, choose, platform
from tests import collectives
from tests.tiny import tiny_config


@pytest.fixture
def interpreted(monkeypatch):
    """As on a TPU, its kernels as ordinary operations; rows outside of an array read as NaN."""
    monkeypatch.setattr(module, "platform", lambda: "tpu")
    call = functools.partial(attention_tpu.pl.pallas_call, interpret=True)
    monkeypatch.setattr(attention_tpu.pl, "pallas_call", call)


def draw(n, T, A, C, *, groups=1, prefix=0, dtype="float32"):
    """q, k, v, sin, cos and a cotangent; scores of order 1, any angles."""
    rng = np.random.default_rng(T)
    q, k, v, dout = (jnp.asarray(rng.standard_normal((n, T, A, C)), dtype) for _ in range(4))
    angles = np.tile(rng.uniform(0, 6, (groups, T - prefix, C // 2)), 2)
    return q, k, v, jnp.sin(angles), jnp.cos(angles), dout


def with_gradients(implementation):
    """Compiled (q, k, v, sin, cos, cotangent) -> (out, dq, dk, dv)."""

    @jax.jit
    def run(q, k, v, sin, cos, dout):
        call = lambda *qkv: attention(jnp.stack(qkv, 2), sin, cos, implementation=implementation)  # noqa: E731
        out, vjp = jax.vjp(call, q, k, v)
        return out, *vjp(dout)

    return run


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    ("T", "A", "C", "groups", "prefix"),
    [
        (1, 1, 4, 1, 0),
        (5, 3, 8, 1, 1),
        (8, 2, 16, 2, 0),
        (54, 4, 8, 4, 5),
        (61, 2, 64, 1, 5),
        (37, 8, 128, 2, 1),
        (201, 2, 32, 1, 5),
    ],
)
def test_kernel_is_attention(T, A, C, groups, prefix):
    args = draw(4, T, A, C, groups=groups, prefix=prefix)
    for got, wanted in zip(with_gradients("pallas")(*args), with_gradients("xla")(*args)):
        # float32; sums of up to 201 terms, in another order.
        np.testing.assert_allclose(got, wanted, atol=5e-6)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("T", "A", "C"), [(54, 2, 64), (37, 4, 128)])
def test_kernel_in_bfloat16_is_as_close_to_the_truth_as_xla(T, A, C):
    """Both round q', k', P, dS and the results to bfloat16; XLA rounds dP, dq' and dk' too."""
    q, k, v, sin, cos, dout = draw(2, T, A, C, prefix=5)
    low = [x.astype("bfloat16") for x in (q, k, v, dout)]
    args = (*low[:3], sin, cos, low[3])
    truth = with_gradients("xla")(*(x.astype("float32") for x in args))
    for got, xla, wanted in zip(
        with_gradients("pallas")(*args), with_gradients("xla")(*args), truth
    ):
        assert got.dtype == jnp.bfloat16
        ours, theirs = (np.abs(x.astype("float32") - wanted) for x in (got, xla))
        # The mean is of thousands of roundings, the largest of them is luck.
        assert ours.mean() <= 1.02 * theirs.mean()
        assert ours.max() <= 1.5 * theirs.max()


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("T", [32, 37])
def test_long_sequences_go_by_blocks_of_queries(T, monkeypatch):
    """The last block of 37 = 2 x 16 + 5 reads undefined rows, which must reach nothing."""
    args = draw(2, T, 2, 8, groups=2, prefix=5)
    monkeypatch.setattr(attention_tpu, "_SCORES", 2 * 16 * T)
    assert attention_tpu._blocks(T, 2, 8, 4) == (16, 2, 1)
    for got, wanted in zip(with_gradients("pallas")(*args), with_gradients("xla")(*args)):
        np.testing.assert_allclose(got, wanted, atol=5e-6)  # as above


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("T", "scores"), [(40, 2**20), (48, 2 * 16 * 48)])
@pytest.mark.parametrize("implementation", ["pallas", "xla"])
def test_padding_is_seen_by_no_token(implementation, T, scores, monkeypatch):
    """37 tokens of T, in one block of queries and in several; the padding holds huge numbers."""
    monkeypatch.setattr(attention_tpu, "_SCORES", scores)
    q, k, v, sin, cos, dout = draw(2, 37, 2, 8, groups=2, prefix=5)
    pad = lambda x, value: jnp.pad(x, ((0, 0), (0, T - 37), (0, 0), (0, 0)), constant_values=value)  # noqa: E731
    padded = [pad(x, 1e3) for x in (q, k, v)]

    def call(*qkv):
        return attention(jnp.stack(qkv, 2), sin, cos, implementation=implementation, tokens=37)

    out, vjp = jax.vjp(call, *padded)
    wanted = with_gradients("xla")(q, k, v, sin, cos, dout)
    for got, want in zip((out, *vjp(pad(dout, 0.0))), wanted):
        np.testing.assert_allclose(got[:, :37], want, atol=5e-6)  # as above
    for gradient in vjp(pad(dout, 0.0)):
        np.testing.assert_array_equal(gradient[:, 37:], 0.0)


@pytest.mark.usefixtures("interpreted")
def test_huge_scores_overflow_nothing():
    """exp(1e4) would be infinite. Nobody but its own token has a large score with a token."""
    T, C = 9, 32
    q = 200 * jnp.eye(T, C)[None, :, None]
    v = draw(1, T, 1, C)[2]
    still = jnp.zeros((1, T, C)), jnp.ones((1, T, C))
    got = attention(jnp.stack([q, q, v], 2), *still, implementation="pallas")
    np.testing.assert_allclose(got, v, rtol=1e-6)  # exp(-7071) is 0: softmax is the identity


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((264, 32, 128), (264, 4, 8)),  # all heads of a sequence in one program
        ((56, 32, 128), (56, 4, 8)),
        ((264, 64, 128), (264, 4, 1)),  # they do not fit into VMEM
        ((208, 16, 64), (208, 4, 1)),  # heads begin in the middle of a register: no loop
        ((208, 6, 64), (208, 2, 1)),
        ((208, 3, 64), (208, 3, 1)),  # no whole number of registers: all heads
        ((1032, 32, 128), (528, 1, 1)),
        ((2312, 16, 64), (224, 2, 1)),
        ((5192, 32, 128), (208, 1, 1)),
    ],
)
def test_blocks(shape, blocks):
    assert attention_tpu._blocks(*shape, 2) == blocks


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    ("mesh", "heads", "groups"),
    [((1, 4, 2, 1), 2, 8), ((2, 2, 1, 2), 2, 1), ((1, 4, 1, 2), 3, 4)],
)
def test_devices_keep_to_their_share(mesh, heads, groups):
    """No collective, forward or backward, and the numbers of one device."""
    args = draw(8, 7, heads, 8, groups=groups, prefix=2)
    wanted = with_gradients("pallas")(*args)
    mesh = make_mesh(MeshConfig(*mesh))
    tokens = P(BATCH_AXES, None, "tensor" if heads == 2 else None)
    angles = P(BATCH_AXES) if groups > 1 else P()
    specs = (tokens, tokens, tokens, angles, angles, tokens)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(args, specs)]
        compiled = with_gradients("pallas").lower(*placed).compile()
        got = compiled(*placed)
    assert not collectives.find(compiled.as_text())
    for a, b in zip(got, wanted):
        assert a.sharding.spec == tokens
        np.testing.assert_allclose(a, b, atol=1e-6)  # float32, another batch size


@pytest.mark.usefixtures("interpreted")
def test_no_activation_travels_in_a_backbone():
    """Blocks under scan and remat on 8 devices speak of the same things with either."""
    found = {}
    for implementation in ("xla", "pallas"):
        config = tiny_config(
            **collectives.RANDOM,
            **{"student.attention": implementation, "student.remat": "dots", "student.depth": 1},
        )
        found[implementation] = sorted(kind for kind, _ in backbone_collectives(config))
    assert found["pallas"] == found["xla"]
    assert "all-gather" in found["xla"]  # of the weights: the program was divided


def backbone_collectives(config):
    """Of the gradient of a backbone's output with respect to its parameters, trained on crops."""
    mesh, graph = make_mesh(MeshConfig(1, 8, 1, 1)), build.networks(config).backbone
    params = jax.eval_shape(lambda: build.init_params(config, jax.random.key(0)))["backbone"]
    shardings = sharding.named(sharding.param_specs(params, mesh), mesh)
    batch = sharding.batch_sharding(mesh)

    def loss(params, images, keys):
        return nnx.merge(graph, params).forward((images,), keys=keys)[0].patch_tokens.sum()

    place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
    with jax.set_mesh(mesh):
        images = jax.ShapeDtypeStruct((32, 16, 16, 3), "float32", sharding=batch)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 8))
        gradient = jax.jit(jax.grad(loss), out_shardings=shardings)
        lowered = gradient.lower(jax.tree.map(place, params, shardings), images, place(keys, batch))
        return collectives.find(lowered.compile().as_text())


@pytest.mark.parametrize(
    ("on", "shape", "dtype", "wanted"),
    [
        ("tpu", (261, 32, 128), "bfloat16", "pallas"),
        ("tpu", (54, 6, 64), "float32", "pallas"),
        ("tpu", (54, 6, 32), "bfloat16", "xla"),
        ("tpu", (attention_tpu.MAX_TOKENS + 1, 6, 64), "bfloat16", "xla"),
        ("gpu", (261, 32, 128), "bfloat16", "cudnn"),
        ("gpu", (261, 32, 128), "float32", "xla"),
        ("gpu", (261, 32, 256), "bfloat16", "xla"),
        ("cpu", (261, 32, 128), "bfloat16", "xla"),
    ],
)
def test_auto(on, shape, dtype, wanted, monkeypatch):
    monkeypatch.setattr(module, "platform", lambda: on)
    monkeypatch.setattr(module, "_flash_attention_exists", lambda: True)
    T, A, C = shape
    assert choose(jax.ShapeDtypeStruct((1, T, 3, A, C), dtype)) == wanted


@pytest.mark.parametrize(
    ("capability", "exists"), [("8.0", True), ("12.1", True), ("7.5", False), ("gfx90a", False)]
)
def test_gpus_with_flash_attention(capability, exists, monkeypatch):
    class Gpu:
        compute_capability = capability

    monkeypatch.setattr(jax, "local_devices", lambda backend: [Gpu()])
    assert module._flash_attention_exists() == exists


def test_platform_is_that_of_the_mesh_or_the_default_device():
    """A mesh of devices that this machine does not have: test_attention_tpu.py."""
    assert platform() == "cpu"
    with jax.set_mesh(make_mesh(MeshConfig(1, 8, 1, 1))):
        assert platform() == "cpu"
    with jax.default_device(jax.devices()[1]):
        assert platform() == "cpu"


def test_cudnn_gets_whole_multiples_of_eight(monkeypatch):
    """Heads of 12 numbers are filled up with zeros; the scale stays that of 12."""
    asked, plain = [], jax.nn.dot_product_attention
    monkeypatch.setattr(module, "platform", lambda: "gpu")

    def cudnn(q, k, v, *, scale, implementation):
        asked.append((q.shape, implementation))
        return plain(q, k, v, scale=scale)

    q, k, v, sin, cos, _ = draw(2, 5, 2, 12, dtype="bfloat16")
    qkv = jnp.stack([q, k, v], 2)
    wanted = attention(qkv, sin, cos, implementation="xla")
    monkeypatch.setattr(jax.nn, "dot_product_attention", cudnn)
    got = attention(qkv, sin, cos, implementation="cudnn")
    assert asked == [((2, 5, 2, 16), "cudnn")]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("implementation", "shape", "message"),
    [
        ("cudnn", (1, 5, 2, 8), "bfloat16 or float16, not float32; set student.dtype='bfloat16'"),
        ("pallas", (1, 8193, 1, 4), "8193 tokens; the TPU kernel takes 8192 at most, set student"),
        ("flash", (1, 5, 2, 8), "'flash', wanted 'auto', 'xla', 'cudnn', 'pallas'"),
    ],
)
def test_misfits(implementation, shape, message):
    q, sin = jnp.zeros(shape), jnp.zeros((1, shape[1], shape[3]))
    with pytest.raises(ValueError, match=message):
        attention(jnp.stack([q, q, q], 2), sin, sin, implementation=implementation)


@pytest.mark.parametrize("scale", [1, 30])
@pytest.mark.parametrize(("T", "A", "C"), [(1, 1, 4), (5, 3, 8), (61, 2, 64)])
def test_head_by_head_is_the_library_on_a_cpu(T, A, C, scale):
    """Scores up to hundreds: no exponential overflows."""
    q, k, v, sin, cos, dout = draw(4, T, A, C)
    q, sin, cos = scale * q, 0 * sin, 0 * cos + 1  # turned by nothing

    @jax.jit
    def library(q, k, v, dout):
        out, vjp = jax.vjp(jax.nn.dot_product_attention, q, k, v)
        return out, *vjp(dout)

    for got, wanted in zip(with_gradients("xla")(q, k, v, sin, cos, dout), library(q, k, v, dout)):
        # float32; dk grows with q.
        np.testing.assert_allclose(got, wanted, atol=5e-6 * scale)
