"""One optimizer step of DINOv3 pretraining, as a pure function.

    teacher_targets -> student_outputs -> total_loss -> apply_update

    L = w_dino · [l/(g+l) · w_local · L_local + g/(g+l) · L_global]
        + w_ibot · L_ibot + w_koleo · G · L_koleo

with g = G(G-1) pairs of global crops (G² with the diagonal) and l = G·L pairs of a global and a
local crop. Source: DINOv3 (arXiv 2508.10104, section 3.2, eq. 1).

Losses see the global batch; what a reference process decides on its local batch (stochastic depth,
masks, KoLeo neighbours) happens inside static groups of ``batch.group`` images, so that the numbers
do not depend on the number of devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dinov3_jax import schedules
from dinov3_jax.config import ScheduleConfig, TrainConfig
from dinov3_jax.distributed.sharding import shard_batch
from dinov3_jax.losses.dino import dino_loss
from dinov3_jax.losses.ibot import ibot_loss
from dinov3_jax.losses.koleo import koleo_loss
from dinov3_jax.losses.sinkhorn import center_softmax, sinkhorn, update_center
from dinov3_jax.models.build import Networks
from dinov3_jax.train import optimizer
from dinov3_jax.train.ema import ema_update
from dinov3_jax.train.state import TrainState
from dinov3_jax.types import Params


class Batch(NamedTuple):
    """Images are float, normalised, image-major; groups are contiguous runs of images."""

    global_crops: jax.Array  # [B, G, H, W, c]
    local_crops: jax.Array  # [B, L, H', W', c]
    masks: jax.Array  # bool [B, G, N]
    mask_indices: jax.Array  # int32 [S, M], into a group's flattened [b, G, N]
    mask_weights: jax.Array  # float32 [S, M], 1 / (masked patches of that crop)


class Targets(NamedTuple):
    cls: jax.Array  # [B, G, K] float32
    patch: jax.Array  # [S, M, K'] float32


class Outputs(NamedTuple):
    global_logits: jax.Array  # [B, G, K]
    local_logits: jax.Array  # [B, L, K]
    patch_logits: jax.Array  # [S, M, K']
    global_cls: jax.Array  # [B, G, D]


def train_step(
    state: TrainState, batch: Batch, key: jax.Array, *, config: TrainConfig, networks: Networks
) -> tuple[TrainState, dict[str, jax.Array]]:
    """(state, batch, run key) -> (next state, float32 scalars).

    A non-finite loss or gradient leaves parameters, moments and teacher as they were; only the step
    advances.

    Gradient accumulation (``batch.accumulate`` = A): the groups are split over A micro-batches.
    Nothing is computed on less than it would be without: teacher targets, Sinkhorn-Knopp included,
    are made for the whole batch first; KoLeo, stochastic depth and masks live inside groups; DINO
    and iBOT losses are means over images. A therefore changes memory and time, not the result.
    """
    scalars = hyperparameters(state.step, config)
    keys = jax.random.split(jax.random.fold_in(key, state.step), batch.mask_indices.shape[0])
    micro = config.batch.accumulate

    with jax.named_scope("teacher_targets"):
        targets, centers = teacher_targets(
            state.teacher,
            state.centers,
            batch,
            scalars["teacher_temperature"],
            config=config,
            networks=networks,
        )

    def micro_step(batch, targets, keys):
        return gradients(
            state.student, batch, targets, keys, state.step, config=config, networks=networks
        )

    if micro == 1:
        grads, terms = micro_step(batch, targets, keys)
    else:
        parts = split_groups((batch, targets, keys), groups=keys.shape[0], parts=micro)
        shapes = jax.eval_shape(lambda p: micro_step(*p), jax.tree.map(lambda x: x[0], parts))

        def add(total, part):
            return jax.tree.map(lambda a, b: a + b / micro, total, micro_step(*part)), None

        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (grads, terms), _ = jax.lax.scan(add, zeros, parts)

    with jax.named_scope("apply_update"):
        return apply_update(state, grads, terms, centers, scalars, config=config)


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
            outputs = student_outputs(student, batch, keys, networks=networks)
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
        "weight_decay": at(optim.weight_decay),
        "teacher_momentum": at(teacher.momentum),
        "teacher_complement": at(schedules.complement(teacher.momentum)),
        "teacher_temperature": at(teacher.temperature),
    }


def scaled_lr(config: TrainConfig) -> ScheduleConfig:
    """The learning-rate schedule after the recipe's scaling rule."""
    optim = config.optim
    return schedules.scale_lr(optim.lr, rule=optim.lr_scaling, images=config.batch.images)


def teacher_targets(
    teacher: Params,
    centers: Params,
    batch: Batch,
    temperature: jax.Array,
    *,
    config: TrainConfig,
    networks: Networks,
) -> tuple[Targets, Params]:
    """Soft assignments of the global crops' CLS and of their masked patches; the next centres.

    The teacher sees global crops only, unmasked, in inference mode.
    """

    def logits(batch):
        images, crops = batch.global_crops.shape[:2]
        backbone = nnx.merge(networks.backbone, teacher["backbone"])
        features = backbone(batch.global_crops.reshape(-1, *batch.global_crops.shape[2:]))
        patches = masked_patches(features.patch_tokens, batch.mask_indices)
        cls = features.cls.reshape(images, crops, -1)
        cls_logits = nnx.merge(networks.dino_head, teacher["dino_head"])(cls)
        return cls_logits, nnx.merge(networks.ibot_head, teacher["ibot_head"])(patches)

    groups, micro = batch.mask_indices.shape[0], config.batch.accumulate
    if micro == 1:
        cls, patch = logits(batch)
    else:
        parts = split_groups(batch, groups=groups, parts=micro)
        cls, patch = join_groups(jax.lax.map(logits, parts), groups=groups, parts=micro)

    if config.teacher.centering == "sinkhorn":
        assign = lambda z, name: sinkhorn(z, temperature=temperature)  # noqa: E731
    else:
        assign = lambda z, name: center_softmax(z, centers[name], temperature=temperature)  # noqa: E731
    flat = {"cls": cls.reshape(-1, cls.shape[-1]), "patch": patch.reshape(-1, patch.shape[-1])}
    made = {name: assign(z, name) for name, z in flat.items()}
    centers = {name: update_center(center, flat[name]) for name, center in centers.items()}
    targets = Targets(made["cls"].reshape(cls.shape), made["patch"].reshape(patch.shape))
    return jax.lax.stop_gradient((targets, centers))


def student_outputs(
    student: Params, batch: Batch, keys: jax.Array, *, networks: Networks
) -> Outputs:
    """Masked global and unmasked local crops through the student, in training mode."""
    images, n_global = batch.global_crops.shape[:2]
    n_local = batch.local_crops.shape[1]
    backbone = nnx.merge(networks.backbone, student["backbone"])
    crops = [batch.global_crops.reshape(-1, *batch.global_crops.shape[2:])]
    masks: list[jax.Array | None] = [batch.masks.reshape(-1, batch.masks.shape[-1])]
    if n_local:
        crops.append(batch.local_crops.reshape(-1, *batch.local_crops.shape[2:]))
        masks.append(None)
    features = backbone.forward(crops, masks=masks, keys=keys)
    cls = [f.cls.reshape(images, -1, f.cls.shape[-1]) for f in features]
    dino_head = nnx.merge(networks.dino_head, student["dino_head"])
    cls_logits = dino_head(jnp.concatenate(cls, axis=1))  # [B, G + L, K], one pass
    patches = masked_patches(features[0].patch_tokens, batch.mask_indices)
    return Outputs(
        cls_logits[:, :n_global],
        cls_logits[:, n_global:],
        nnx.merge(networks.ibot_head, student["ibot_head"])(patches),
        cls[0],
    )


def masked_patches(patch_tokens: jax.Array, mask_indices: jax.Array) -> jax.Array:
    """Gathers inside each group: [B·G, N, D] and int [S, M] -> [S, M, D]."""
    grouped = patch_tokens.reshape(mask_indices.shape[0], -1, patch_tokens.shape[-1])
    return shard_batch(jax.vmap(lambda tokens, i: tokens[i])(grouped, mask_indices))


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
    scalars: dict[str, jax.Array],
    *,
    config: TrainConfig,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Clip, AdamW, EMA; unchanged (but for the step) where loss or gradient is not finite."""
    grads, norms = optimizer.clip(grads, config.optim.clip)
    student, opt_state = optimizer.update(
        grads,
        state.opt_state,
        state.student,
        config=config.optim,
        lr=scalars["lr"],
        last_layer_lr=scalars["last_layer_lr"],
        weight_decay=scalars["weight_decay"],
    )
    complement = scalars.pop("teacher_complement")
    teacher = ema_update(state.teacher, student, scalars["teacher_momentum"], complement)
    finite = jnp.isfinite(terms["loss/total"] + sum(norms.values()))
    new = (student, teacher, opt_state, centers)
    old = (state.student, state.teacher, state.opt_state, state.centers)
    kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    metrics = terms | scalars | {f"grad_norm/{name}": norm for name, norm in norms.items()}
    return TrainState(*kept, step=state.step + 1), metrics


def split_groups(tree, *, groups: int, parts: int):
    """[S·k, ...] leaves -> [parts, S/parts·k, ...]; part p holds groups p, p + parts, ...

    Strided, so that every part has groups on every device.
    """

    def split(x):
        each = x.shape[0] // groups
        x = x.reshape(groups // parts, parts, each, *x.shape[1:])
        return jnp.moveaxis(x, 1, 0).reshape(parts, groups // parts * each, *x.shape[3:])

    return jax.tree.map(split, tree)


def join_groups(tree, *, groups: int, parts: int):
    """The inverse of ``split_groups``."""

    def join(x):
        each = x.shape[1] * parts // groups
        x = x.reshape(parts, groups // parts, each, *x.shape[2:])
        return jnp.moveaxis(x, 0, 1).reshape(groups * each, *x.shape[3:])

    return jax.tree.map(join, tree)
