"""What the student is asked to predict: ``teacher_outputs``, then ``assign``.

The teacher is the EMA of the student, or in distillation a frozen network with sizes of its own.
"""

import functools
from typing import NamedTuple

import jax
from flax import nnx

from dinov3_jax.config import TrainConfig
from dinov3_jax.distributed.fsdp import fully_sharded
from dinov3_jax.distributed.sharding import shard_batch
from dinov3_jax.losses.sinkhorn import center_softmax, sinkhorn, update_center
from dinov3_jax.models import grid
from dinov3_jax.models.build import Networks
from dinov3_jax.train.groups import map_groups
from dinov3_jax.types import Params


class Batch(NamedTuple):
    """Images are float, normalised, image-major; groups are contiguous runs of images."""

    global_crops: jax.Array  # [B, G, H, W, c]
    local_crops: jax.Array  # [B, L, H', W', c]
    masks: jax.Array  # bool [B, G, N], N patches of the student's grid
    mask_indices: jax.Array  # int32 [S, M], into a group's flattened [b, G, N]
    mask_weights: jax.Array  # float32 [S, M], 1 / (masked patches of that crop)
    gram_crops: jax.Array | None = None  # [B, G, H'', W'', c]; None: the global crops serve


class TeacherOutputs(NamedTuple):
    cls_logits: jax.Array  # [B, G, K]
    patch_logits: jax.Array  # [S, M, K']
    patch_tokens: jax.Array | None  # [B, G, N, D]; only where the EMA teacher is the Gram teacher


class Targets(NamedTuple):
    cls: jax.Array  # [B, G, K] float32
    patch: jax.Array  # [S, M, K'] float32
    gram: jax.Array | None  # [B, G, N, D], features of the Gram teacher on the student's grid


def teacher_outputs(
    teacher: Params, batch: Batch, *, config: TrainConfig, networks: Networks
) -> TeacherOutputs:
    """Logits of the global crops' CLS and of their masked patches, unmasked, in inference mode.

    ``networks`` are the teacher's. In distillation its crops are shrunk by
    ``distill.resolution_scale``; where its patch grid still differs from the one that the masks
    count in (a ConvNeXt student of stride 32 under a ViT of patch 16), its patch tokens are
    resized to that grid, antialiased, before the masked positions are chosen: a mask index means
    the same place for both.
    """
    keep_patches = config.gram is not None and config.gram.teacher == "ema"
    scale, side, theirs = 1.0, config.student.stride, config.student
    if config.distill is not None:
        scale, theirs = config.distill.resolution_scale, config.distill.backbone
    stride = theirs.stride

    def outputs(teacher, layout, batch):
        backbone = nnx.merge(networks.backbone, teacher["backbone"])
        images, crops, height, width, channels = batch.global_crops.shape
        flat = batch.global_crops.reshape(-1, height, width, channels)
        if scale != 1.0:
            small = (len(flat), round(height / scale), round(width / scale), channels)
            flat = jax.image.resize(flat, small, "linear", antialias=True)
        (features,) = backbone.forward((flat,), layout=layout["backbone"])
        tokens = features.patch_tokens
        old = (flat.shape[1] // stride, flat.shape[2] // stride)
        new = (height // side, width // side)
        if old != new:
            tokens = grid.resize(tokens, old, new, method="bilinear", antialias=True)
            tokens = tokens.astype(features.patch_tokens.dtype)
        cls = features.cls.reshape(images, crops, -1)
        patches = masked_patches(tokens, batch.mask_indices)
        return TeacherOutputs(
            nnx.merge(networks.dino_head, teacher["dino_head"])(cls),
            nnx.merge(networks.ibot_head, teacher["ibot_head"])(patches),
            tokens.reshape(images, crops, *tokens.shape[1:]) if keep_patches else None,
        )

    made = map_groups(
        functools.partial(
            fully_sharded,
            outputs,
            teacher,
            dtype=theirs.dtype,
            reduce_dtype=config.optim.reduce_dtype,
        ),
        batch,
        groups=batch.mask_indices.shape[0],
        parts=config.batch.accumulate,
    )
    return jax.lax.stop_gradient(made)


def assign(
    outputs: TeacherOutputs, centers: Params, temperature: jax.Array, *, config: TrainConfig
) -> tuple[jax.Array, jax.Array, Params]:
    """Soft assignments of CLS [B, G, K] and masked patches [S, M, K'], and the next centres."""
    logits = {"cls": outputs.cls_logits, "patch": outputs.patch_logits}
    flat = {name: z.reshape(-1, z.shape[-1]) for name, z in logits.items()}
    if config.teacher.centering == "sinkhorn":
        made = {k: sinkhorn(z, temperature=temperature) for k, z in flat.items()}
    else:
        made = {k: center_softmax(z, centers[k], temperature=temperature) for k, z in flat.items()}
    centers = {name: update_center(center, flat[name]) for name, center in centers.items()}
    cls, patch = (made[k].reshape(logits[k].shape) for k in ("cls", "patch"))
    return jax.lax.stop_gradient((cls, patch, centers))


def masked_patches(patch_tokens: jax.Array, indices: jax.Array) -> jax.Array:
    """Gathers inside each group: [B·G, N, D] and int [S, M] -> [S, M, D]."""
    grouped = patch_tokens.reshape(indices.shape[0], -1, patch_tokens.shape[-1])
    return shard_batch(jax.vmap(lambda tokens, i: tokens[i])(grouped, indices))
