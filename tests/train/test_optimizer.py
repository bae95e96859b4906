import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dinov3_jax.config import OptimConfig
from dinov3_jax.distributed.sharding import path_name
from dinov3_jax.models import build
from dinov3_jax.train import optimizer
from tests.tiny import tiny_config, tiny_state


def config(**changes) -> OptimConfig:
    return tiny_config(**{f"optim.{key}": value for key, value in changes.items()}).optim


def tree(depth):
    """One parameter of each kind, of a backbone of ``depth`` blocks."""
    return {
        "backbone": {
            "blocks": {
                "attn": {"qkv": {"kernel": jnp.ones((depth, 2, 6)), "bias": jnp.ones((depth, 6))}},
                "ls1": {"gamma": jnp.ones((depth, 2))},
                "norm1": {"scale": jnp.ones((depth, 2))},
            },
            "cls_token": jnp.ones(2),
            "storage_tokens": jnp.ones((4, 2)),
            "mask_token": jnp.ones(2),
            "patch_embed": {"kernel": jnp.ones((4, 4, 3, 2)), "bias": jnp.ones(2)},
            "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
            "local_cls_norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
        },
        "dino_head": {"fc1": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
                      "prototypes": {"kernel": jnp.ones((3, 4))}},
        "ibot_head": {"fc1": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
                      "prototypes": {"kernel": jnp.ones((3, 4))}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("depth", "decay", "tokens", "patch", "first", "last"),
    [
        (24, 0.9, 0.0717898, 0.0143580, 0.0797664, 0.9),
        (40, 0.98, 0.4367864, 0.0873573, 0.4457004, 0.98),
    ],
    ids=["ViT-L", "7B"],
)
def test_reference_lr_factors(depth, decay, tokens, patch, first, last):
    lr = optimizer.factors(tree(depth), config(layer_decay=decay, patch_embed_lr=0.2)).lr
    backbone = lr["backbone"]
    close = lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=2e-6)  # noqa: E731
    # Six digits are printed; float32 powers.
    for name in ("cls_token", "storage_tokens", "mask_token"):
        close(backbone[name], tokens)
    for leaf in backbone["patch_embed"].values():
        np.testing.assert_allclose(leaf, patch, rtol=5e-6)
    for leaf in jax.tree.leaves(backbone["blocks"]):
        close(np.ravel(leaf)[[0, -1]], [first, last])
        assert len(np.ravel(leaf)) == depth
    for name in ("norm", "local_cls_norm"):
        assert set(map(float, backbone[name].values())) == {1.0}
    assert set(map(float, jax.tree.leaves([lr["dino_head"], lr["ibot_head"]]))) == {1.0}


def test_what_decays():
    decay = optimizer.factors(tree(2), config()).weight_decay
    paths = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, value in jax.tree_util.tree_leaves_with_path(decay)
        if value
    }
    assert paths == {
        "backbone/blocks/attn/qkv/kernel",
        "backbone/cls_token",
        "backbone/storage_tokens",
        "backbone/mask_token",
        "backbone/patch_embed/kernel",
        "dino_head/fc1/kernel",
        "dino_head/prototypes/kernel",
        "ibot_head/fc1/kernel",
        "ibot_head/prototypes/kernel",
    }


def test_factors_fit_a_real_model():
    shapes = jax.eval_shape(lambda: build.init_params(tiny_config(), jax.random.key(0)))
    table = optimizer.factors(shapes, config())
    for part in table:
        jax.tree.map(lambda p, f: jnp.broadcast_shapes(p.shape, jnp.shape(f)), shapes, part)


STATE = tiny_state(tiny_config())
PARAMS = jax.tree.map(jnp.asarray, STATE.student)
GRADS = jax.tree.map(jnp.asarray, STATE.teacher)


def test_equals_adamw_of_optax_where_factors_are_1():
    """Matrices of the heads: lr factor 1, decayed."""
    ours_config = config(beta2=0.95, layer_decay=1.0, patch_embed_lr=1.0)
    oracle = optax.adamw(1e-2, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.3)
    pick = lambda tree: tree["dino_head"]["fc1"]["kernel"]  # noqa: E731
    ours, ours_state = PARAMS, optimizer.init(PARAMS, ours_config)
    theirs = pick(PARAMS)
    theirs_state = oracle.init(theirs)
    scalars = dict(lr=1e-2, backbone_lr=1e-2, last_layer_lr=1e-2, weight_decay=0.3)
    for scale in (1.0, -0.5, 2.0):
        grads = jax.tree.map(lambda g: g * scale, GRADS)  # noqa: B023
        ours, ours_state = _update(grads, ours_state, ours, config=ours_config, **scalars)
        updates, theirs_state = oracle.update(scale * pick(GRADS), theirs_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    # atol: float32; lr times a few roundings of order 1.
    np.testing.assert_allclose(pick(ours), theirs, atol=1e-6)
    assert ours_state.count == 3


_update = jax.jit(optimizer.update, static_argnames="config")


def one_step(
    params=PARAMS, grads=GRADS, *, optim=None, lr=1e-2, backbone=None, last=1e-2, decay=0.0
):
    optim = optim or config()
    start = optimizer.init(params, optim)
    rates = dict(lr=lr, backbone_lr=lr if backbone is None else backbone, last_layer_lr=last)
    return _update(grads, start, params, config=optim, weight_decay=decay, **rates)


def test_first_step_is_the_sign_times_rate_and_factor():
    new, _ = one_step()
    table = optimizer.factors(PARAMS, config())

    def check(*leaves):
        old, new, grad, factor = map(np.asarray, leaves)
        wanted = -1e-2 * np.sign(grad) * factor
        use = np.abs(grad) > 1e-3  # where 1e-8 in the denominator does not show
        # atol: float32 near parameters of order 1.
        np.testing.assert_allclose(
            (new - old)[use], np.broadcast_to(wanted, old.shape)[use], atol=3e-7
        )

    jax.tree.map(check, PARAMS, new, GRADS, table.lr)


def test_weight_decay_is_decoupled_and_times_the_rate():
    zeros = jax.tree.map(jnp.zeros_like, GRADS)
    new, _ = one_step(grads=zeros, lr=0.1, last=0.05, decay=0.5)
    table = optimizer.factors(PARAMS, config())

    def check(path, *leaves):
        old, new, factor, decay = map(np.asarray, leaves)
        rate = (0.05 if "prototypes" in path_name(path) else 0.1) * factor * 0.5 * decay
        np.testing.assert_allclose(new, old * (1 - rate), atol=1e-6)  # float32

    jax.tree_util.tree_map_with_path(check, PARAMS, new, *table)


def test_rate_0_on_the_last_layer_freezes_it_but_not_its_moments():
    new, state = one_step(last=0.0, decay=0.3)
    for head in ("dino_head", "ibot_head"):
        kernel = new[head]["prototypes"]["kernel"]
        np.testing.assert_array_equal(kernel, PARAMS[head]["prototypes"]["kernel"])
        assert (state.mu[head]["prototypes"]["kernel"] != 0).all()
        assert (new[head]["fc1"]["kernel"] != PARAMS[head]["fc1"]["kernel"]).all()


def test_rate_0_on_the_backbone_freezes_it_alone():
    """Fresh heads on a trained backbone: its moments advance, its parameters do not."""
    new, state = one_step(backbone=0.0, decay=0.3)
    np.testing.assert_array_equal(new["backbone"]["cls_token"], PARAMS["backbone"]["cls_token"])
    jax.tree.map(np.testing.assert_array_equal, new["backbone"], PARAMS["backbone"])
    for head in ("dino_head", "ibot_head"):
        for name in ("fc1", "prototypes"):
            assert (new[head][name]["kernel"] != PARAMS[head][name]["kernel"]).any()
    assert jax.tree.leaves(state.mu["backbone"])[0].any()


def test_a_convnext_has_no_layer_decay_and_its_downsampling_norms_decay():
    stage = {"downsample": {"norm": {"scale": 1.0, "bias": 1.0}, "conv": {"kernel": 1.0}},
             "blocks": {"norm": {"scale": 1.0}, "fc1": {"kernel": 1.0, "bias": 1.0}}}  # fmt: skip
    params = {"backbone": {"stage1": stage, "norm": {"scale": 1.0}}}
    table = optimizer.factors(params, config(layer_decay=0.5))
    assert all(factor == 1.0 for factor in jax.tree.leaves(table.lr))
    assert table.weight_decay == {
        "backbone": {
            "stage1": {
                "downsample": {"norm": {"scale": 1.0, "bias": 0.0}, "conv": {"kernel": 1.0}},
                "blocks": {"norm": {"scale": 0.0}, "fc1": {"kernel": 1.0, "bias": 0.0}},
            },
            "norm": {"scale": 0.0},
        }
    }


@pytest.mark.parametrize("limit", [0.1, 3.0, 1e6])
def test_each_network_is_clipped_alone(limit):
    clipped, norms = jax.jit(optimizer.clip)(GRADS, limit)
    for name, tree in GRADS.items():
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        norm = np.linalg.norm(flat)
        assert float(norms[name]) == pytest.approx(norm, rel=1e-6)  # float32
        scale = min(1.0, limit / (norm + 1e-6))
        got = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(clipped[name])])
        np.testing.assert_allclose(got, flat * scale, rtol=1e-5)  # float32
    assert norms.keys() == GRADS.keys()


def test_no_limit_no_clipping():
    clipped, norms = optimizer.clip(GRADS, None)
    assert clipped is GRADS
    assert min(map(float, norms.values())) > 0


def test_clipping_a_gradient_of_zero():
    zeros = jax.tree.map(jnp.zeros_like, GRADS)
    clipped, norms = optimizer.clip(zeros, 1.0)
    assert set(map(float, norms.values())) == {0.0}
    jax.tree.map(np.testing.assert_array_equal, clipped, zeros)
