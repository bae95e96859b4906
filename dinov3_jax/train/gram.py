"""Gram anchoring inside a step: features of the Gram teacher, the loss terms, the teacher's life.

Source: DINOv3 (arXiv 2508.10104, section 4).
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from dinov3_jax.config import GramConfig, TrainConfig
from dinov3_jax.distributed.fsdp import fully_sharded
from dinov3_jax.losses.gram import gram_loss
from dinov3_jax.models import grid
from dinov3_jax.models.build import Networks
from dinov3_jax.train.groups import map_groups
from dinov3_jax.train.targets import Batch, masked_patches
from dinov3_jax.types import Params


def gram_targets(
    gram_teacher: Params, batch: Batch, *, config: TrainConfig, networks: Networks
) -> jax.Array:
    """Patch tokens [B, G, N, D] of the Gram teacher, on the student's grid.

    Unmasked Gram crops (global crops where there are none) through the backbone in inference mode,
    then resized (``gram.resize``, ``gram.antialias``) to the grid of the global crops.
    """
    assert config.gram is not None
    resize = functools.partial(
        grid.resize, method=config.gram.resize, antialias=config.gram.antialias
    )
    stride = config.student.stride
    new = (batch.global_crops.shape[2] // stride, batch.global_crops.shape[3] // stride)

    def features(params, layout, crops):
        backbone = nnx.merge(networks.backbone, params["backbone"])
        images, count, height, width, channels = crops.shape
        flat = crops.reshape(-1, height, width, channels)
        tokens = backbone.forward((flat,), layout=layout["backbone"])[0].patch_tokens
        old = (height // stride, width // stride)
        if old != new:
            tokens = resize(tokens, old, new).astype(tokens.dtype)
        return tokens.reshape(images, count, *tokens.shape[1:])

    crops = batch.global_crops if batch.gram_crops is None else batch.gram_crops
    groups = batch.mask_indices.shape[0]
    each = functools.partial(
        fully_sharded,
        features,
        {"backbone": gram_teacher},
        dtype=config.student.dtype,
        reduce_dtype=config.optim.reduce_dtype,
    )
    made = map_groups(each, crops, groups=groups, parts=config.batch.accumulate)
    return jax.lax.stop_gradient(made)


def gram_terms(
    patch_tokens: jax.Array, targets: jax.Array, batch: Batch, *, config: GramConfig
) -> dict[str, jax.Array]:
    """``loss/gram`` of student and teacher patches [B, G, N, D], and with ``stats`` two more.

    ``stats/gram_masked`` and ``stats/gram_unmasked``: the same at group level over those patches.
    """

    def loss(student, teacher):
        return gram_loss(student, teacher, normalize=config.normalize, negatives=config.negatives)

    def of(tokens):
        chosen = {"all": None, "masked": batch.mask_indices, "unmasked": _unmasked(batch)}[tokens]
        pair = (patch_tokens, targets)
        if chosen is None:
            return loss(*(x.reshape(len(batch.mask_indices), -1, x.shape[-1]) for x in pair))
        return loss(*(masked_patches(x, chosen) for x in pair))

    if config.level == "image":
        total = loss(*(x.reshape(-1, *x.shape[2:]) for x in (patch_tokens, targets)))
    else:
        total = of(config.tokens)
    terms = {"loss/gram": total}
    if config.stats:
        for tokens in ("masked", "unmasked"):
            terms[f"stats/gram_{tokens}"] = jax.lax.stop_gradient(of(tokens))
    return terms


def _unmasked(batch):
    """int [S, b·G·N - M]: the patches of each group that are not masked, in order."""
    masks = batch.masks.reshape(len(batch.mask_indices), -1)
    rest = masks.shape[1] - batch.mask_indices.shape[1]
    return jnp.argsort(masks, axis=1, stable=True)[:, :rest]  # False sorts first


def load_gram_teacher(
    gram_teacher: Params, backbone: Params, step: jax.Array, *, config: GramConfig
) -> Params:
    """The EMA ``backbone`` at the start of step ``load_step``, else what there was."""
    if config.teacher != "ema_at_step":
        return gram_teacher
    return _copy_if(step == config.load_step, gram_teacher, backbone)


def refresh_gram_teacher(
    gram_teacher: Params, backbone: Params, done: jax.Array, *, config: GramConfig
) -> Params:
    """The EMA ``backbone`` after a step that is due, else what there was.

    Due: ``done`` (steps done, this one included) is a multiple of ``refresh_every`` and at least
    ``refresh_first``, for the first ``refresh_count`` such numbers. A pure function of ``done``:
    nothing is counted, so nothing is lost on resume.
    """
    every = config.refresh_every
    if every is None or config.teacher == "ema":
        return gram_teacher
    first = max(-(-config.refresh_first // every), 1)  # in units of ``every``
    due = (done % every == 0) & (done // every >= first)
    if config.refresh_count is not None:
        due &= done // every < first + config.refresh_count
    return _copy_if(due, gram_teacher, backbone)


def _copy_if(due, gram_teacher, backbone):
    return jax.lax.cond(due, lambda old, new: new, lambda old, new: old, gram_teacher, backbone)
