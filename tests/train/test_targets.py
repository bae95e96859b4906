"""What the student is asked to predict, and at which places."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from dinov3_jax.config import MeshConfig
from dinov3_jax.data.check import check_config
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.models import build
from dinov3_jax.models.build import Networks
from dinov3_jax.train.targets import assign, masked_patches, teacher_outputs
from dinov3_jax.types import Features
from tests.tiny import (
    CONVNEXT,
    compile_step,
    place,
    tiny_batch,
    tiny_config,
    tiny_frozen,
    tiny_state,
)

KEY = jax.random.key(7)
ROUNDING = 1e-5  # float32 in another program, numbers near 1


def test_masked_patches_are_gathered_within_groups():
    batch = tiny_batch(tiny_config())
    tokens = jnp.arange(32 * 16, dtype=jnp.float32).reshape(32, 16, 1)
    got = masked_patches(tokens, batch.mask_indices)
    np.testing.assert_array_equal(np.asarray(got).reshape(-1), np.flatnonzero(batch.masks))


@pytest.mark.parametrize("centering", ["sinkhorn", "softmax"])
def test_targets_are_assignments_without_gradient(centering):
    config = tiny_config(**{"teacher.centering": centering})
    networks, batch, state = build.networks(config), tiny_batch(config), tiny_state(config)

    def total(teacher):
        outputs = teacher_outputs(teacher, batch, config=config, networks=networks)
        *targets, centers = assign(outputs, state.centers, 0.07, config=config)
        weighted = [jnp.sum(t * jnp.arange(t.shape[-1])) for t in (*targets, *centers.values())]
        return sum(weighted), targets

    gradient, (cls, patch) = jax.jit(jax.grad(total, has_aux=True))(state.teacher)
    assert cls.shape == (16, 2, 32)
    assert patch.shape == (*batch.mask_indices.shape, 24)
    for part in (cls, patch):
        np.testing.assert_allclose(part.sum(axis=-1), 1.0, atol=ROUNDING)
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0.0), gradient)


# One program of a distillation into a narrower student of other depth.
DISTILL = {
    "distill.backbone.embed_dim": 32,
    "distill.backbone.depth": 1,
    "distill.dino_head.hidden": 40,
    "student.drop_path": 0.4,
}


@functools.cache
def distillation():
    config = tiny_config(**DISTILL)
    mesh = make_mesh(MeshConfig(1, 1, 1, 1), jax.devices()[:1])
    fn = compile_step(config, mesh)

    def call(state, batch, frozen):
        with jax.set_mesh(mesh):
            state, metrics = fn(*place(config, mesh, state, batch), KEY, frozen)
        return jax.tree.map(np.asarray, state), {k: float(v) for k, v in metrics.items()}

    return config, call


def test_the_frozen_teacher_alone_makes_the_targets():
    """``state.teacher`` is the average of the student, which only follows."""
    config, call = distillation()
    state, batch, frozen = tiny_state(config), tiny_batch(config), tiny_frozen(config)
    assert frozen["backbone"]["cls_token"].shape == (32,)
    assert state.student["backbone"]["cls_token"].shape == (16,)
    after, metrics = call(state, batch, frozen)

    wanted = jax.tree.map(lambda t, s: 0.9 * t + 0.1 * s, state.teacher, after.student)
    # atol: float32, a fused multiply-add.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.teacher, wanted)
    assert (after.student["backbone"]["cls_token"] != state.student["backbone"]["cls_token"]).all()

    other = dataclasses.replace(state, teacher=jax.tree.map(lambda x: x + 1.0, state.teacher))
    again, same = call(other, batch, frozen)
    assert same == metrics
    jax.tree.map(np.testing.assert_array_equal, again.student, after.student)
    _, changed = call(state, batch, tiny_frozen(config, seed=2))
    for name in ("loss/dino_global", "loss/dino_local", "loss/ibot"):
        assert abs(changed[name] - metrics[name]) > 1e-3, name
    assert changed["loss/koleo"] == metrics["loss/koleo"]


def test_in_distillation_masks_only_choose_where_ibot_looks():
    config, call = distillation()
    state, batch, frozen = tiny_state(config), tiny_batch(config), tiny_frozen(config)
    elsewhere = tiny_batch(config, seed=1)
    masks = ("masks", "mask_indices", "mask_weights")
    moved = batch._replace(**{name: getattr(elsewhere, name) for name in masks})
    assert (moved.masks != batch.masks).any()
    metrics, other = (call(state, made, frozen)[1] for made in (batch, moved))
    for name in ("loss/dino_global", "loss/dino_local", "loss/koleo"):
        assert metrics[name] == other[name], name
    assert abs(metrics["loss/ibot"] - other["loss/ibot"]) > 1e-3


class MeanPixel(nnx.Module):
    """A teacher whose patch token is the mean pixel of its patch: it tells where it looked."""

    def __init__(self, patch):
        self.patch = patch

    def forward(self, crops, *, layout):
        (images,) = crops
        n, height, width, channels = images.shape
        p = self.patch
        tokens = images.reshape(n, height // p, p, width // p, p, channels).mean(axis=(2, 4))
        tokens = tokens.reshape(n, -1, channels)
        return (Features(tokens.mean(axis=1), tokens[:, :0], tokens, tokens),)


class Identity(nnx.Module):
    def __call__(self, x):
        return x


def look(config, batch):
    """``teacher_outputs`` of a ``MeanPixel`` without heads."""
    patch = config.distill.backbone.patch_size
    graphs = (nnx.graphdef(module) for module in (MeanPixel(patch), Identity(), Identity()))
    empty = {name: {} for name in Networks._fields}
    return teacher_outputs(empty, batch, config=config, networks=Networks(*graphs))


def at_masks(batch, tokens):
    """[B, G, N, D] -> [S, M, D] in numpy: boolean indexing instead of gathers."""
    tokens, masks = np.asarray(tokens), np.asarray(batch.masks)
    return tokens[masks].reshape(*batch.mask_indices.shape, tokens.shape[-1])


def pillow(images, size):
    """[n, H, W, c] -> [n, size, size, c], antialiased bilinear."""
    channels = np.moveaxis(images, -1, 1).reshape(-1, *images.shape[1:3])
    made = [Image.fromarray(x).resize((size, size), Image.Resampling.BILINEAR) for x in channels]
    return np.moveaxis(np.stack(made).reshape(len(images), -1, size, size), 1, -1)


def convnext(**changes):
    """Two tokens a side of 64-pixel crops, of which the teacher (patch 8) has eight a side."""
    config = tiny_config(**CONVNEXT, **{"distill.backbone.patch_size": 8, **changes})
    check_config(config)
    return config


def test_a_mask_index_means_the_same_place_on_both_grids():
    """Each quarter of the image has a channel of its own, which its token must show most of."""
    config = convnext(**{"ibot.mask_ratio": (0.5, 1.0)})
    batch = tiny_batch(config)
    assert batch.masks.shape[-1] == 4
    quarters = np.zeros((16, 2, 64, 64, 4), np.float32)
    for i in range(4):
        rows, columns = (slice(32 * k, 32 * k + 32) for k in divmod(i, 2))
        quarters[:, :, rows, columns, i] = 1.0
    outputs = look(config, batch._replace(global_crops=jnp.asarray(quarters)))
    place = np.asarray(batch.mask_indices) % 4
    np.testing.assert_array_equal(np.argmax(outputs.patch_logits, axis=-1), place)
    assert len(np.unique(place)) == 4


@pytest.mark.parametrize("accumulate", [1, 4])
def test_tokens_of_a_finer_grid_are_averaged_as_pillow_does(accumulate):
    config = convnext(**{"ibot.mask_ratio": (0.5, 1.0), "batch.accumulate": accumulate})
    batch = tiny_batch(config)
    outputs = look(config, batch)
    grids = np.asarray(batch.global_crops).reshape(32, 8, 8, 8, 8, 3).mean(axis=(2, 4))
    wanted = pillow(grids, 2).reshape(16, 2, 4, 3)
    np.testing.assert_allclose(outputs.patch_logits, at_masks(batch, wanted), atol=ROUNDING)
    # CLS is of the teacher's own tokens, in the order of the images.
    np.testing.assert_allclose(
        outputs.cls_logits.reshape(32, 3), grids.mean(axis=(1, 2)), atol=ROUNDING
    )


def test_equal_grids_are_not_resized():
    config = tiny_config(**{"distill.step": None})
    batch = tiny_batch(config)
    tokens = np.asarray(batch.global_crops).reshape(16, 2, 4, 4, 4, 4, 3).mean(axis=(3, 5))
    wanted = at_masks(batch, tokens.reshape(16, 2, 16, 3))
    np.testing.assert_allclose(look(config, batch).patch_logits, wanted, atol=ROUNDING)


@pytest.mark.parametrize(
    ("size", "scale", "student", "patch"),
    [(32, 2.0, 8, 4), (24, 1.5, 6, 4), (132, 1.1, 44, 40), (16, 0.5, 4, 8)],
)
def test_the_teacher_sees_crops_shrunk_by_the_resolution_scale(size, scale, student, patch):
    """As Pillow shrinks them; the grids then agree. int(132 / 1.1) is 119."""
    config = tiny_config(**{
        "batch.images": 2, "crops.global_size": size, "crops.local_size": student,
        "student.patch_size": student, "distill.backbone.patch_size": patch,
        "distill.resolution_scale": scale,
    })  # fmt: skip
    check_config(config)
    small = round(size / scale)
    batch = tiny_batch(config)
    crops = np.asarray(batch.global_crops).reshape(4, size, size, 3)
    side = small // patch
    shrunk = pillow(crops, small).reshape(4, side, patch, side, patch, 3)
    wanted = shrunk.mean(axis=(2, 4)).reshape(2, 2, side * side, 3)
    got = look(config, batch).patch_logits
    np.testing.assert_allclose(got, at_masks(batch, wanted), atol=ROUNDING)
