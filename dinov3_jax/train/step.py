"""One optimizer step of DINOv3, as a pure function.

    teacher_outputs -> assign -> gram_targets -> student_outputs -> total_loss -> apply_update

    L = w_dino · [l/(g+l) · w_local · L_local + g/(g+l) · L_global]
        + w_ibot · L_ibot + w_koleo · G · L_koleo + w_gram · L_gram

with g = G(G-1) pairs of global crops (G² with the diagonal) and l = G·L pairs of a global and a
local crop. Source: DINOv3 (arXiv 2508.10104, section 3.2, eq. 1; section 4.2, eq. 2).

One step, three recipes, by static switches: pretraining (EMA teacher, masked student crops), Gram
anchoring (``config.gram``), distillation (``config.distill``: frozen teacher, unmasked student
crops, iBOT at the mask positions all the same; the EMA of the student is kept for evaluation).

Losses see the global batch; what a reference process decides on its local batch (stochastic depth,
masks, KoLeo neighbours) happens inside static groups of ``batch.group`` images, so that the numbers
do not depend on the number of devices.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dinov3_jax import schedules
from dinov3_jax.config import ScheduleConfig, TrainConfig
from dinov3_jax.distributed.fsdp import fully_sharded
from dinov3_jax.losses.dino import dino_loss
from dinov3_jax.losses.ibot import ibot_loss
from dinov3_jax.losses.koleo import koleo_loss
from dinov3_jax.models import build
from dinov3_jax.models.build import Networks
from dinov3_jax.train import gram, optimizer
from dinov3_jax.train.ema import ema_update
from dinov3_jax.train.groups import split_groups
from dinov3_jax.train.state import TrainState
from dinov3_jax.train.targets import (
    Batch,
    Targets,
    TeacherOutputs,
    assign,
    masked_patches,
    teacher_outputs,
)
from dinov3_jax.types import Params


class Outputs(NamedTuple):
    global_logits: jax.Array  # [B, G, K]
    local_logits: jax.Array  # [B, L, K]
    patch_logits: jax.Array  # [S, M, K']
    global_cls: jax.Array  # [B, G, D]
    patch_tokens: jax.Array  # [B, G, N, D] of the global crops


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    frozen: Params | None = None,
    *,
    config: TrainConfig,
    networks: Networks,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """(state, batch, run key) -> (next state, float32 scalars).

    ``frozen``: parameters {backbone, dino_head, ibot_head} of the teacher of a distillation, in the
    networks of ``config.distill``; without it the teacher is ``state.teacher``.

    A non-finite loss or gradient leaves parameters, moments and teachers as they were; only the
    step advances.

    Gradient accumulation (``batch.accumulate`` = A): the groups are split over A micro-batches.
    Nothing is computed on less than it would be without: teacher targets, Sinkhorn-Knopp included,
    are made for the whole batch first; KoLeo, stochastic depth, masks and group-level Gram
    matrices live inside groups; DINO, iBOT and Gram losses are means over images or groups. A
    therefore changes memory and time, not the result.
    """
    with jax.named_scope("teacher_targets"):
        if frozen is None:
            outputs = teacher_outputs(state.teacher, batch, config=config, networks=networks)
        else:
            theirs = build.distill_networks(config)
            outputs = teacher_outputs(frozen, batch, config=config, networks=theirs)
    return student_step(state, batch, outputs, key, config=config, networks=networks)


def student_step(
    state: TrainState,
    batch: Batch,
    outputs: TeacherOutputs,
    key: jax.Array,
    *,
    config: TrainConfig,
    networks: Networks,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The rest of a step once the teacher has spoken; several students may share ``outputs``."""
    scalars = hyperparameters(state.step, config)
    groups, micro = batch.mask_indices.shape[0], config.batch.accumulate
    keys = jax.random.split(jax.random.fold_in(key, state.step), groups)

    targets, centers, gram_teacher = make_targets(
        state, batch, outputs, scalars["teacher_temperature"], config=config, networks=networks
    )

    def micro_step(batch, targets, keys):
        return gradients(
            state.student, batch, targets, keys, state.step, config=config, networks=networks
        )

    if micro == 1:
        grads, terms = micro_step(batch, targets, keys)
    else:
        parts = split_groups((batch, targets, keys), groups=groups, parts=micro)
        shapes = jax.eval_shape(lambda p: micro_step(*p), jax.tree.map(lambda x: x[0], parts))

        def add(total, part):
            return jax.tree.map(lambda a, b: a + b / micro, total, micro_step(*part)), None

        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (grads, terms), _ = jax.lax.scan(add, zeros, parts)

    with jax.named_scope("apply_update"):
        return apply_update(state, grads, terms, centers, gram_teacher, scalars, config=config)


def make_targets(
    state: TrainState,
    batch: Batch,
    outputs: TeacherOutputs,
    temperature: jax.Array,
    *,
    config: TrainConfig,
    networks: Networks,
) -> tuple[Targets, Params, Params]:
    """(what the student is to predict, next centres, Gram teacher of this step)."""
    with jax.named_scope("teacher_targets"):
        cls, patch, centers = assign(outputs, state.centers, temperature, config=config)
    gram_teacher, gram_patches = state.gram_teacher, outputs.patch_tokens
    if config.gram is not None and config.gram.teacher != "ema":
        with jax.named_scope("gram_targets"):
            gram_teacher = gram.load_gram_teacher(
                gram_teacher, state.teacher["backbone"], state.step, config=config.gram
            )
            gram_patches = gram.gram_targets(gram_teacher, batch, config=config, networks=networks)
    return Targets(cls, patch, gram_patches), centers, gram_teacher


def gradients(
    student: Params,
    batch: Batch,
    targets: Targets,
    keys: jax.Array,
    step: jax.Array,
    *,
    config: TrainConfig,
    networks: Networks,
) -> tuple[Params, dict[str, jax.Array]]:
    """Gradient of the total loss with respect to the student, and every loss term."""

    def loss(student):
        with jax.named_scope("student_outputs"):
            outputs = student_outputs(student, batch, keys, config=config, networks=networks)
        with jax.named_scope("total_loss"):
            return total_loss(outputs, targets, batch, step, config=config)

    grads, terms = jax.grad(loss, has_aux=True)(student)
    return grads, terms


def hyperparameters(step: jax.Array, config: TrainConfig) -> dict[str, jax.Array]:
    """The scheduled scalars of a step; ``teacher_complement`` is 1 - ``teacher_momentum``."""
    optim, teacher = config.optim, config.teacher
    at = lambda schedule: schedules.value(schedule, step, steps=config.steps)  # noqa: E731
    lr = at(scaled_lr(config))
    return {
        "lr": lr,
        "last_layer_lr": jnp.where(step < optim.freeze_last_layer, 0.0, lr),
        "backbone_lr": jnp.where(step < optim.freeze_backbone, 0.0, lr),
        "weight_decay": at(optim.weight_decay),
        "teacher_momentum": at(teacher.momentum),
        "teacher_complement": at(schedules.complement(teacher.momentum)),
        "teacher_temperature": at(teacher.temperature),
    }


def scaled_lr(config: TrainConfig) -> ScheduleConfig:
    """The learning-rate schedule after the recipe's scaling rule."""
    optim = config.optim
    return schedules.scale_lr(optim.lr, rule=optim.lr_scaling, images=config.batch.images)


def student_outputs(
    student: Params, batch: Batch, keys: jax.Array, *, config: TrainConfig, networks: Networks
) -> Outputs:
    """Global crops (whole in distillation, else masked) and local crops, in training mode."""
    forward = functools.partial(_student_outputs, masked=config.distill is None, networks=networks)
    return fully_sharded(
        forward,
        student,
        (batch, keys),
        dtype=config.student.dtype,
        reduce_dtype=config.optim.reduce_dtype,
    )


def _student_outputs(student, layout, arrays, *, masked, networks):
    batch, keys = arrays
    images, n_global = batch.global_crops.shape[:2]
    n_local = batch.local_crops.shape[1]
    backbone = nnx.merge(networks.backbone, student["backbone"])
    crops = [batch.global_crops.reshape(-1, *batch.global_crops.shape[2:])]
    masks = [batch.masks.reshape(-1, batch.masks.shape[-1]) if masked else None]
    if n_local:
        crops.append(batch.local_crops.reshape(-1, *batch.local_crops.shape[2:]))
        masks.append(None)
    features = backbone.forward(crops, masks=masks, keys=keys, layout=layout["backbone"])
    cls = [f.cls.reshape(images, -1, f.cls.shape[-1]) for f in features]
    dino_head = nnx.merge(networks.dino_head, student["dino_head"])
    cls_logits = dino_head(jnp.concatenate(cls, axis=1))  # [B, G + L, K], one pass
    patches = masked_patches(features[0].patch_tokens, batch.mask_indices)
    return Outputs(
        cls_logits[:, :n_global],
        cls_logits[:, n_global:],
        nnx.merge(networks.ibot_head, student["ibot_head"])(patches),
        cls[0],
        features[0].patch_tokens.reshape(images, n_global, -1, cls[0].shape[-1]),
    )


def total_loss(
    outputs: Outputs, targets: Targets, batch: Batch, step: jax.Array, *, config: TrainConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum and every term of it."""
    n_global, n_local = outputs.global_logits.shape[1], outputs.local_logits.shape[1]
    dino = config.dino
    global_pairs = n_global * (n_global - 1 if dino.ignore_diagonal else n_global)
    pairs = global_pairs + n_global * n_local
    local_weight = schedules.value(dino.local_weight, step, steps=config.steps)

    terms = {
        "loss/dino_global": dino_loss(
            outputs.global_logits, targets.cls, ignore_diagonal=dino.ignore_diagonal
        ),
        "loss/ibot": ibot_loss(
            outputs.patch_logits,
            targets.patch,
            batch.mask_weights,
            crops=batch.masks.shape[0] * n_global,
        ),
        "loss/koleo": koleo_loss(koleo_groups(outputs.global_cls, config), topk=config.koleo.topk),
    }
    total = dino.weight * global_pairs / pairs * terms["loss/dino_global"]
    if n_local:
        terms["loss/dino_local"] = dino_loss(outputs.local_logits, targets.cls)
        local_share = dino.weight * n_global * n_local / pairs
        total += local_share * local_weight * terms["loss/dino_local"]
    total += config.ibot.weight * terms["loss/ibot"]
    total += config.koleo.weight * n_global * terms["loss/koleo"]
    if config.gram is not None:
        assert targets.gram is not None  # student_step made them
        weight = schedules.value(config.gram.weight, step, steps=config.steps)
        terms |= gram.gram_terms(outputs.patch_tokens, targets.gram, batch, config=config.gram)
        terms["gram_weight"] = weight
        total += weight * terms["loss/gram"]
    return total, terms | {"loss/total": total}


def koleo_groups(cls: jax.Array, config: TrainConfig) -> jax.Array:
    """[B, G, D] -> [G, B/n, n, D]: KoLeo looks at each global crop and group by itself."""
    size = config.koleo.group or config.batch.group
    return jnp.moveaxis(cls.reshape(-1, size, *cls.shape[1:]), 2, 0)


def apply_update(
    state: TrainState,
    grads: Params,
    terms: dict[str, jax.Array],
    centers: Params,
    gram_teacher: Params,
    scalars: dict[str, jax.Array],
    *,
    config: TrainConfig,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Clip, AdamW, EMA, Gram refresh; nothing but the step if loss or gradient is not finite."""
    grads, norms = optimizer.clip(grads, config.optim.clip)
    student, opt_state = optimizer.update(
        grads,
        state.opt_state,
        state.student,
        config=config.optim,
        lr=scalars["lr"],
        backbone_lr=scalars.pop("backbone_lr"),
        last_layer_lr=scalars["last_layer_lr"],
        weight_decay=scalars["weight_decay"],
    )
    complement = scalars.pop("teacher_complement")
    teacher = ema_update(state.teacher, student, scalars["teacher_momentum"], complement)
    finite = jnp.isfinite(terms["loss/total"] + sum(norms.values()))
    # A Gram teacher that was loaded before this step stays loaded: it is not loaded again.
    old = (state.student, state.teacher, gram_teacher, state.opt_state, state.centers)
    if config.gram is not None:
        gram_teacher = gram.refresh_gram_teacher(
            gram_teacher, teacher["backbone"], state.step + 1, config=config.gram
        )
    new = (student, teacher, gram_teacher, opt_state, centers)
    kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    metrics = terms | scalars | {f"grad_norm/{name}": norm for name, norm in norms.items()}
    return TrainState(*kept, step=state.step + 1), metrics
