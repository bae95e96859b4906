"""Replays reference numbers: ``python -m tests.golden PATH.npz``.

``PATH.json`` beside it holds the constructor arguments (a forward) or the resolved configuration
and the per-step scalars (a trajectory), both in the reference's own key names. Prints the largest
relative error of each kind; the last line is one JSON object with ``ok``.
"""

import dataclasses
import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs import base
from dinov3_jax.config import CompleteVitConfig, ConvNextConfig, TrainConfig
from dinov3_jax.convert import official
from dinov3_jax.models import build, presets
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train import state as train_state, step as train_step

# Float32 rounding of two frameworks that sum in different orders, seen through a few layers
# (outputs, losses), a backward pass (gradients) and some Adam steps (parameters).
LIMITS = {
    "outputs": 1e-5,  # of the output's largest value
    "schedules": 1e-5,  # float32 schedules against float64 ones
    "losses": 2e-5,
    "grad_norms": 1e-4,
    "gradients": 1e-4,  # of each tensor's norm
    "student": 1e-3,  # of the norm of its whole update
    "teacher": 1e-3,
    "gram_teacher": 1e-3,
}
LOSSES = {
    "total_loss": "loss/total",
    "dino_local_crops_loss": "loss/dino_local",
    "dino_global_crops_loss": "loss/dino_global",
    "koleo_loss": "loss/koleo",
    "ibot_loss": "loss/ibot",
    "gram_loss": "loss/gram",
    "stats_only/masked_gram_loss": "stats/gram_masked",
    "stats_only/unmasked_gram_loss": "stats/gram_unmasked",
}
SCALARS = {
    "lr": "lr",
    "weight_decay": "weight_decay",
    "momentum": "teacher_momentum",
    "teacher_temp": "teacher_temperature",
    "last_layer_lr": "last_layer_lr",
    "gram_loss_weight": "gram_weight",
}
NORMS = {f"{name}_grad_norm": f"grad_norm/{name}" for name in build.Networks._fields}


def replay(path: str | pathlib.Path) -> dict:
    """Largest relative error of each kind, and ``ok``."""
    path = pathlib.Path(path)
    spec = json.loads(path.with_suffix(".json").read_text())
    arrays = dict(np.load(path))
    with jax.default_matmul_precision("highest"):
        errors = (
            replay_trajectory(spec, arrays) if "steps" in spec else replay_forward(spec, arrays)
        )
    ok = all(error <= LIMITS[kind] for kind, error in errors.items())
    return {"file": path.name, **errors, "ok": ok}


def replay_forward(spec: dict, arrays: dict) -> dict[str, float]:
    config = forward_config(spec)
    graph, shapes = nnx.split(nnx.eval_shape(lambda: build.backbone(config, nnx.Rngs(0))))
    params = official.from_official(_under(arrays, "params/"), nnx.to_pure_dict(shapes))
    model = nnx.merge(graph, jax.tree.map(jnp.asarray, params))
    worst = 0.0
    for prefix in sorted({k.split("/")[0] for k in arrays if re.match(r"in\d+/", k)}):
        inputs, wanted = _under(arrays, prefix + "/"), _under(arrays, f"out{prefix[2:]}/")
        images = jnp.asarray(inputs["image"].transpose(0, 2, 3, 1))
        masks = [jnp.asarray(inputs["masks"])] if "masks" in inputs else None
        features = model.forward([images], masks=masks)[0]
        got = {
            "x_norm_clstoken": features.cls,
            "x_storage_tokens": features.storage_tokens,
            "x_norm_patchtokens": features.patch_tokens,
            "x_prenorm": features.prenorm,
        }
        grid = [side // config.patch_size for side in images.shape[1:3]]
        for i, layer in enumerate(model.intermediate_layers(images, spec.get("intermediate_n", 1))):
            patches = layer.patch_tokens.reshape(len(images), *grid, -1)
            got[f"intermediate{i}_patch"] = patches.transpose(0, 3, 1, 2)
            got[f"intermediate{i}_cls"] = layer.cls
        for name, value in wanted.items():
            if value.size:
                error = np.abs(np.asarray(got[name]) - value).max() / np.abs(value).max()
                print(f"{prefix} {name}: {error:.2e}")
                worst = max(worst, float(error))
    return {"outputs": worst}


def replay_trajectory(spec: dict, arrays: dict) -> dict[str, float]:
    config = trajectory_config(spec)
    networks = build.networks(config)
    key = jax.random.key(0)  # nothing random is switched on

    def params(prefix, init):
        shapes = jax.eval_shape(lambda: init(config, key))
        state = {k: v for k, v in _under(arrays, prefix).items() if not _is_center(k)}
        return jax.tree.map(jnp.asarray, official.from_official(state, shapes))

    state = train_state.from_params(config, params("init/student/", build.init_params))
    if state.gram_teacher and _under(arrays, "init/gram_teacher/"):
        backbone = params("init/gram_teacher/", _init_backbone)
        state = dataclasses.replace(state, gram_teacher=backbone)
    frozen = None
    if config.distill is not None:
        frozen = params("init/teacher/", build.init_distill_params)

    step_fn = jax.jit(
        lambda s, b: train_step.train_step(s, b, key, frozen, config=config, networks=networks)
    )
    errors = dict.fromkeys(("schedules", "losses", "grad_norms", "gradients"), 0.0)
    for i, recorded in enumerate(spec["steps"]):
        batch = step_batch(arrays, i, spec)
        if i == 0:
            grads = jax.jit(lambda s, b: _first_gradients(s, b, frozen, config, networks))
            errors["gradients"] = _gradient_error(
                official.to_official(grads(state, batch)), _under(arrays, "step0/grad/")
            )
        state, metrics = step_fn(state, batch)
        for kind, table in (("losses", LOSSES), ("grad_norms", NORMS), ("schedules", SCALARS)):
            for name, ours in table.items():
                if name in recorded and ours not in metrics:
                    raise ValueError(f"the reference recorded {name}, our step made no {ours}")
                if name in recorded:
                    error = _relative(float(metrics[ours]), recorded[name])
                    errors[kind] = max(errors[kind], error)
                    if error > LIMITS[kind]:
                        print(f"step {i} {name}: {float(metrics[ours])!r}, not {recorded[name]!r}")
    start = _under(arrays, "init/student/")
    errors["student"] = _final_error(state.student, _under(arrays, "final/student/"), start)
    errors["teacher"] = _final_error(state.teacher, _under(arrays, "final/teacher_ema/"), start)
    final = _under(arrays, "final/gram_teacher/")
    if state.gram_teacher and final:
        start = _under(arrays, "init/gram_teacher/")
        errors["gram_teacher"] = _final_error(state.gram_teacher, final, start)
    return errors


def _init_backbone(config, key):
    return build.init_params(config, key)["backbone"]


def _is_center(name):
    return re.search(r"(dino|ibot_patch)_loss\.center$", name)


def _final_error(params, final, start):
    """Of the norm of the whole update; of the parameters' own where nothing was to move."""
    ours = official.to_official(params)
    missed = sum(np.sum((ours[k] - final[k]) ** 2) for k in ours)
    moved = sum(np.sum((final[k] - start.get(k, 0.0)) ** 2) for k in ours)
    return float(np.sqrt(missed / (moved or sum(np.sum(final[k] ** 2) for k in ours))))


def _first_gradients(state, batch, frozen, config, networks):
    teacher, theirs = state.teacher, networks
    if frozen is not None:
        teacher, theirs = frozen, build.distill_networks(config)
    outputs = train_step.teacher_outputs(teacher, batch, config=config, networks=theirs)
    temperature = train_step.hyperparameters(state.step, config)["teacher_temperature"]
    targets, *_ = train_step.make_targets(
        state, batch, outputs, temperature, config=config, networks=networks
    )
    keys = jax.random.split(jax.random.key(0), batch.mask_indices.shape[0])
    grads, _ = train_step.gradients(
        state.student, batch, targets, keys, state.step, config=config, networks=networks
    )
    return grads


def _gradient_error(grads, wanted):
    worst = 0.0
    for name, value in wanted.items():
        norm = np.linalg.norm(value)
        error = np.linalg.norm(grads[name] - value) / norm if norm else np.linalg.norm(grads[name])
        if error > LIMITS["gradients"]:
            print(f"gradient {name}: {error:.2e} of its norm {norm:.2e}")
        worst = max(worst, float(error))
    return worst


def step_batch(arrays: dict, step: int, spec: dict) -> train_step.Batch:
    """The global batch of a step: one process is one group."""
    ranks = spec.get("world_size", 1)
    parts = []
    for rank in range(ranks):
        found = _under(arrays, f"step{step}/rank{rank}/" if ranks > 1 else f"step{step}/")
        found = _under(found, "batch/") or found
        parts.append(reference_batch(found, spec["per_device_batch"]))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def reference_batch(arrays: dict, images: int) -> train_step.Batch:
    """Crop-major NCHW arrays of one process -> our image-major batch of one group."""

    def image_major(x):
        return jnp.asarray(np.moveaxis(x.reshape(-1, images, *x.shape[1:]), 0, 1))

    def crops(name):
        return image_major(arrays[name].transpose(0, 2, 3, 1))

    gram = "collated_gram_teacher_crops"
    local = "collated_local_crops"
    no_crops = jnp.zeros((images, 0, 1, 1, 3))

    masks = image_major(arrays["collated_masks"])
    row, patch = np.divmod(arrays["mask_indices_list"], masks.shape[-1])
    crop, image = np.divmod(row, images)
    indices = (image * masks.shape[1] + crop) * masks.shape[-1] + patch
    return train_step.Batch(
        crops("collated_global_crops"),
        crops(local) if len(arrays.get(local, ())) else no_crops,
        masks,
        jnp.asarray(indices[None], jnp.int32),
        jnp.asarray(arrays["masks_weight"][None]),
        crops(gram) if len(arrays.get(gram, ())) else None,
    )


def forward_config(spec: dict) -> CompleteVitConfig | ConvNextConfig:
    """Constructor arguments of the reference -> ours; an argument unknown here is an error."""
    convnext = "dims" in spec
    keys = ("depths", "dims", "patch_size") if convnext else _vit_keys(spec)
    known = {key: spec[key] for key in keys}
    ignored = {"img_size", "intermediate_n", "pos_embed_rope_dtype", "drop_path_rate", "device"}
    unknown = spec.keys() - known.keys() - ignored - {"pos_embed_rope_rescale_coords"}
    unknown -= {"pos_embed_rope_shift_coords", "pos_embed_rope_jitter_coords", "n_blocks"}
    if unknown:
        raise ValueError(f"constructor arguments not understood: {sorted(unknown)}")
    if convnext:
        sizes = [tuple(spec["depths"]), tuple(spec["dims"])]
        return ConvNextConfig("convnext_tiny", spec["patch_size"], 3, *sizes, "float32", "none")
    return _student(known, spec).student


# Reference key -> our key; the same names serve constructor and configuration.
_VIT = {
    "patch_size": "patch_size",
    "in_chans": "in_channels",
    "embed_dim": "embed_dim",
    "depth": "depth",
    "num_heads": "num_heads",
    "ffn_ratio": "ffn_ratio",
    "qkv_bias": "qkv_bias",
    "proj_bias": "proj_bias",
    "ffn_bias": "ffn_bias",
    "mask_k_bias": "mask_k_bias",
    "n_storage_tokens": "storage_tokens",
    "layerscale_init": "layerscale",
    "untie_cls_and_patch_norms": "untie_cls_and_patch_norms",
    "untie_global_and_local_cls_norm": "untie_global_and_local_cls_norm",
    "pos_embed_rope_base": "rope_base",
    "pos_embed_rope_min_period": "rope_min_period",
    "pos_embed_rope_max_period": "rope_max_period",
    "pos_embed_rope_normalize_coords": "rope_normalize",
}
# The reference constructor's own defaults, where they differ from configs/base.py.
_DEFAULTS = dict(
    embed_dim=768, depth=12, num_heads=12, ffn_ratio=4.0, n_storage_tokens=0, mask_k_bias=False,
    layerscale_init=None, norm_layer="layernorm", ffn_layer="mlp", qkv_bias=True,
)  # fmt: skip


def _vit_keys(spec):
    return {k: spec[k] for k in (*_VIT, "norm_layer", "ffn_layer") if k in spec}


def _student(known: dict, spec: dict):
    """A base recipe whose student follows reference keys; float32, nothing random."""
    recipe = base.get_config()
    student = recipe.student
    for key, value in {**_DEFAULTS, **known}.items():
        if key in _VIT:
            field = _VIT[key]
            if field == "layerscale" and not value:
                value = None
            if value is not None and field in ("ffn_ratio", "layerscale", "rope_base"):
                value = float(value)
            if value is not None and field in ("rope_min_period", "rope_max_period"):
                value = float(value)
            student[field] = value
    if student.rope_min_period is not None:
        student.rope_base = None
    values = {**_DEFAULTS, **known}
    student.norm, student.norm_eps = {
        "layernorm": ("layernorm", 1e-6),
        "layernormbf16": ("layernorm", 1e-5),
        "rmsnorm": ("rmsnorm", 1e-5),
    }[values["norm_layer"]]
    student.ffn = re.sub(r"\d+$", "", values["ffn_layer"])
    student.ffn_align = int(re.sub(r"\D", "", values["ffn_layer"]) or 8)
    student.drop_path = 0.0
    student.rope_rescale = None
    student.dtype = "float32"
    config = from_config_dict(recipe)
    return _Completed(recipe, presets.complete(config.student))


class _Completed:
    def __init__(self, recipe, student):
        self.recipe, self.student = recipe, student


def trajectory_config(spec: dict) -> TrainConfig:
    """The reference's resolved configuration -> ours, with one group of the process' batch."""
    ref = spec["config"]
    if ref["multidistillation"]["enabled"]:
        raise ValueError("multidistillation.enabled: a trajectory has one student here")
    images, ranks = spec["per_device_batch"], spec.get("world_size", 1)
    epoch = ref["train"]["OFFICIAL_EPOCH_LENGTH"]
    recipe = _networks(ref, spec)
    recipe.batch.images, recipe.batch.group = images * ranks, images
    recipe.steps = ref["optim"]["epochs"] * epoch
    crops = ref["crops"]
    recipe.crops.global_size, recipe.crops.local_size = (
        crops[f"{kind}_crops_size"] for kind in ("global", "local")
    )
    recipe.crops.local_count = crops["local_crops_number"]
    if ref["gram"]["use_loss"]:
        recipe.gram = _gram(ref["gram"], epoch)
        recipe.crops.gram_size = crops["gram_teacher_crops_size"]
    if ref["distillation"]["enabled"]:
        recipe.distill = base.distill(_networks(spec["teacher_config"], spec))
        scale = crops.get("teacher_to_student_resolution_scale", 1.0)
        recipe.distill.resolution_scale = float(scale)

    dino, ibot = ref["dino"], ref["ibot"]
    recipe.dino.weight = float(dino["loss_weight"])
    recipe.dino.ignore_diagonal = dino["global_ignore_diagonal"]
    if dino["reweight_dino_local_loss"]:
        recipe.dino.local_weight = _v2(dino["local_loss_weight_schedule"], epoch)
    recipe.ibot.weight = float(ibot["loss_weight"])
    recipe.koleo.weight = float(dino["koleo_loss_weight"])
    if dino["koleo_loss_distributed"]:
        recipe.koleo.topk = dino["koleo_topk"]
        recipe.koleo.group = dino["koleo_distributed_loss_group_size"] or images * ranks
    recipe.teacher.centering = {"sinkhorn_knopp": "sinkhorn"}.get(
        ref["train"]["centering"], "softmax"
    )

    optim = ref["optim"]
    recipe.optim.beta1, recipe.optim.beta2 = optim["adamw_beta1"], optim["adamw_beta2"]
    recipe.optim.clip = float(optim["clip_grad"]) if optim["clip_grad"] else None
    recipe.optim.layer_decay = float(optim["layerwise_decay"])
    recipe.optim.patch_embed_lr = float(optim["patch_embed_lr_mult"])
    if spec["schedules_version"] == 2:
        table = ref["schedules"]
        recipe.optim.lr = _v2(table["lr"], epoch)
        recipe.optim.weight_decay = _v2(table["weight_decay"], epoch)
        recipe.teacher.momentum = _v2(table["momentum"], epoch)
        recipe.teacher.temperature = _v2(table["teacher_temp"], epoch)
        freeze = table["lr"].get("freeze_last_layer_epochs", 0)
    else:
        teacher, extra = ref["teacher"], optim["schedule_trunc_extra"]
        v1 = dict(family="v1", truncation=float(extra))
        recipe.optim.lr = base.schedule(
            optim["lr"], start=0.0, end=optim["min_lr"], warmup=optim["warmup_epochs"] * epoch, **v1
        )
        recipe.optim.weight_decay = base.schedule(
            optim["weight_decay"], end=optim["weight_decay_end"], **v1
        )
        recipe.teacher.momentum = base.schedule(
            teacher["momentum_teacher"], end=teacher["final_momentum_teacher"], **v1
        )
        recipe.teacher.temperature = base.schedule(
            teacher["teacher_temp"],
            start=teacher["warmup_teacher_temp"],
            warmup=teacher["warmup_teacher_temp_epochs"] * epoch,
            family="v1",
        )
        freeze = optim["freeze_last_layer_epochs"]
    recipe.optim.freeze_last_layer = freeze * epoch
    return _scaled(recipe, spec)


def _networks(ref: dict, spec: dict):
    """A recipe with the backbone and the heads of a configuration, which may leave out defaults."""
    student = ref["student"]
    arch = spec["archs"].get(student["arch"], {})
    # ffn_ratio comes from the architecture and in_chans is 3: the reference ignores those keys.
    keys = {**_vit_keys(student), **_vit_keys(arch), "in_chans": 3}
    keys["layerscale_init"] = student.get("layerscale", 1e-5)
    recipe = _student(keys, spec).recipe
    if "dims" in arch:
        recipe.student.arch = "convnext_tiny"
        recipe.student.stage_depths = tuple(arch["depths"])
        recipe.student.stage_dims = tuple(arch["dims"])
        for name in ("embed_dim", "depth", "num_heads", "ffn", "ffn_ratio", "ffn_align"):
            recipe.student[name] = None
        recipe.student.qkv_bias = None
    for head, section in ((recipe.dino.head, ref["dino"]), (recipe.ibot.head, ref["ibot"])):
        head.prototypes = section.get("head_n_prototypes", 65_536)
        head.hidden = section.get("head_hidden_dim", 2048)
        head.bottleneck = section.get("head_bottleneck_dim", 256)
        head.layers = section.get("head_nlayers", 3)
    return recipe


def _gram(ref: dict, epoch: int):
    """The Gram section; every key of the reference is understood or an error."""
    gram = base.gram()
    weights = ref.get("loss_weight_schedule")
    if weights is None:
        gram.weight = base.schedule(float(ref["loss_weight"]))
    else:
        gram.weight = _v2(weights, epoch)
    if ref["ema_teacher"]:
        gram.teacher = "ema"
    elif ref["it_load_ema_teacher"] >= 0:
        gram.teacher, gram.load_step = "ema_at_step", ref["it_load_ema_teacher"]
    if ref["rep_update"] and not ref["ema_teacher"]:
        gram.refresh_every = ref["update_frequency"]
        gram.refresh_first = ref["it_first_update"]
        gram.refresh_count = ref["max_updates"]
    gram.level = "image" if ref["img_level"] else "group"
    gram.normalize = ref["normalized"]
    if ref["remove_neg"]:
        gram.negatives = "remove"
    elif ref["remove_only_teacher_neg"]:
        gram.negatives = "clip_teacher"  # what the reference computes
    gram.tokens = ref["tokens_used"]
    gram.resize = ref["global_teacher_resize_method"]
    gram.antialias = ref["global_teacher_resize_antialias"]
    gram.stats = ref["compute_stats"]
    return gram


def _scaled(recipe, spec) -> TrainConfig:
    """Scales the lr by the rule on ``batch_size_per_gpu`` unless the dump already holds it scaled.

    A dump can be written before or after scaling; the recorded rates tell which.
    """
    rule = {"sqrt_wrt_1024": "sqrt_1024", "linear_wrt_256": "linear_256"}.get(
        spec["config"]["optim"]["scaling_rule"], "none"
    )
    images = spec["config"]["train"]["batch_size_per_gpu"]
    candidates = []
    ranks, local = spec.get("world_size", 1), spec["per_device_batch"]
    sizes = (images * ranks, local * ranks, images, local)
    for scaling, batch in (*((rule, size) for size in sizes), ("none", images)):
        # Our rule reads batch.images, which is the size that is replayed: scale here instead.
        trial = from_config_dict(recipe)
        lr = train_step.schedules.scale_lr(trial.optim.lr, rule=scaling, images=batch)
        optim = dataclasses.replace(trial.optim, lr=lr, lr_scaling="none")
        candidates.append(dataclasses.replace(trial, optim=optim))
    return min(candidates, key=lambda config: _lr_error(config, spec))


def _lr_error(config, spec):
    return max(
        _relative(float(train_step.hyperparameters(jnp.int32(i), config)["lr"]), step["lr"])
        for i, step in enumerate(spec["steps"])
    )


def _v2(section, epoch):
    cosine = section.get("cosine_epochs")
    return base.schedule(
        section["peak"],
        start=section["start"],
        end=section["end"],
        warmup=section["warmup_epochs"] * epoch,
        cosine=None if cosine is None else cosine * epoch,
    )


def _under(arrays, prefix):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _relative(got, wanted):
    return abs(got - wanted) / abs(wanted) if wanted else abs(got)


if __name__ == "__main__":
    result = replay(sys.argv[1])
    print(json.dumps(result))
    sys.exit(not result["ok"])
