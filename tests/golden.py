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
from dinov3_jax.config import TrainConfig, VitConfig, from_config_dict
from dinov3_jax.convert import official
from dinov3_jax.models import build, presets
from dinov3_jax.models.vit import VisionTransformer
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
}
LOSSES = {
    "total_loss": "loss/total",
    "dino_local_crops_loss": "loss/dino_local",
    "dino_global_crops_loss": "loss/dino_global",
    "koleo_loss": "loss/koleo",
    "ibot_loss": "loss/ibot",
}
SCALARS = {
    "lr": "lr",
    "weight_decay": "weight_decay",
    "momentum": "teacher_momentum",
    "teacher_temp": "teacher_temperature",
    "last_layer_lr": "last_layer_lr",
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
    model = nnx.eval_shape(lambda: VisionTransformer(config, rngs=nnx.Rngs(0)))
    graph, shapes = nnx.split(model)
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
    shapes = jax.eval_shape(lambda: build.init_params(config, jax.random.key(0)))

    def params(prefix):
        tree = official.from_official(_under(arrays, prefix), shapes)
        return jax.tree.map(jnp.asarray, tree)

    state = train_state.from_params(config, params("init/student/"))
    key = jax.random.key(0)  # nothing random is switched on
    step_fn = jax.jit(
        lambda s, b: train_step.train_step(s, b, key, config=config, networks=networks)
    )
    errors = dict.fromkeys(("schedules", "losses", "grad_norms", "gradients"), 0.0)
    for i, recorded in enumerate(spec["steps"]):
        batch = reference_batch(_under(arrays, f"step{i}/batch/"), spec["per_device_batch"])
        if i == 0:
            wanted = _under(arrays, "step0/grad/")
            grads = official.to_official(
                jax.jit(lambda s, b: _first_gradients(s, b, config, networks))(state, batch)
            )
            errors["gradients"] = _gradient_error(grads, wanted)
        state, metrics = step_fn(state, batch)
        for kind, table in (("losses", LOSSES), ("grad_norms", NORMS), ("schedules", SCALARS)):
            for name, ours in table.items():
                if name in recorded and ours in metrics:
                    error = _relative(float(metrics[ours]), recorded[name])
                    errors[kind] = max(errors[kind], error)
                    if error > LIMITS[kind]:
                        print(f"step {i} {name}: {float(metrics[ours])!r}, not {recorded[name]!r}")
    start = _under(arrays, "init/student/")
    for name, tree, final in (
        ("student", state.student, _under(arrays, "final/student/")),
        ("teacher", state.teacher, _under(arrays, "final/teacher_ema/")),
    ):
        ours = official.to_official(tree)
        missed = sum(np.sum((ours[k] - final[k]) ** 2) for k in ours)
        moved = sum(np.sum((final[k] - start[k]) ** 2) for k in ours)
        errors[name] = float(np.sqrt(missed / moved))
    return errors


def _first_gradients(state, batch, config, networks):
    scalars = train_step.hyperparameters(state.step, config)
    targets, _ = train_step.teacher_targets(
        state.teacher,
        state.centers,
        batch,
        scalars["teacher_temperature"],
        config=config,
        networks=networks,
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


def reference_batch(arrays: dict, images: int) -> train_step.Batch:
    """Crop-major NCHW arrays of one process -> our image-major batch of one group."""

    def image_major(x):
        return jnp.asarray(np.moveaxis(x.reshape(-1, images, *x.shape[1:]), 0, 1))

    def crops(name):
        x = arrays.get(name)
        return image_major(x.transpose(0, 2, 3, 1))

    masks = image_major(arrays["collated_masks"])
    row, patch = np.divmod(arrays["mask_indices_list"], masks.shape[-1])
    crop, image = np.divmod(row, images)
    indices = (image * masks.shape[1] + crop) * masks.shape[-1] + patch
    return train_step.Batch(
        crops("collated_global_crops"),
        crops("collated_local_crops"),
        masks,
        jnp.asarray(indices[None], jnp.int32),
        jnp.asarray(arrays["masks_weight"][None]),
    )


def forward_config(spec: dict) -> VitConfig:
    """Constructor arguments of the reference ViT -> ours; an argument unknown here is an error."""
    known = _vit_keys(spec)
    ignored = {"img_size", "intermediate_n", "pos_embed_rope_dtype", "drop_path_rate", "device"}
    unknown = spec.keys() - known.keys() - ignored - {"pos_embed_rope_rescale_coords"}
    unknown -= {"pos_embed_rope_shift_coords", "pos_embed_rope_jitter_coords", "n_blocks"}
    if unknown:
        raise ValueError(f"constructor arguments not understood: {sorted(unknown)}")
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
    ref, images = spec["config"], spec["per_device_batch"]
    for section, switch in (("gram", "use_loss"), ("distillation", "enabled")):
        if ref[section][switch]:
            raise ValueError(
                f"this trajectory has {section}.{switch}; the step has stage 1 only: an EMA "
                "teacher, masked student crops and no Gram loss"
            )
    epoch = ref["train"]["OFFICIAL_EPOCH_LENGTH"]
    student = ref["student"]
    arch = spec["archs"][student["arch"]]
    # ffn_ratio comes from the architecture and in_chans is 3: the reference ignores those keys.
    keys = {**_vit_keys(student), **_vit_keys(arch), "in_chans": 3}
    keys["layerscale_init"] = student["layerscale"]
    recipe = _student(keys, spec).recipe
    recipe.batch.images = recipe.batch.group = images
    recipe.steps = ref["optim"]["epochs"] * epoch

    dino, ibot = ref["dino"], ref["ibot"]
    for head, section in ((recipe.dino.head, dino), (recipe.ibot.head, ibot)):
        head.prototypes = section["head_n_prototypes"]
        head.hidden = section["head_hidden_dim"]
        head.bottleneck = section["head_bottleneck_dim"]
        head.layers = section["head_nlayers"]
    recipe.dino.weight = float(dino["loss_weight"])
    recipe.dino.ignore_diagonal = dino["global_ignore_diagonal"]
    if dino["reweight_dino_local_loss"]:
        recipe.dino.local_weight = _v2(dino["local_loss_weight_schedule"], epoch)
    recipe.ibot.weight = float(ibot["loss_weight"])
    recipe.koleo.weight = float(dino["koleo_loss_weight"])
    if dino["koleo_loss_distributed"]:
        recipe.koleo.topk = dino["koleo_topk"]
        recipe.koleo.group = dino["koleo_distributed_loss_group_size"]
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


def _scaled(recipe, spec) -> TrainConfig:
    """Scales the lr by the rule on ``batch_size_per_gpu`` unless the dump already holds it scaled.

    A dump can be written before or after scaling; the recorded rates tell which.
    """
    rule = {"sqrt_wrt_1024": "sqrt_1024", "linear_wrt_256": "linear_256"}.get(
        spec["config"]["optim"]["scaling_rule"], "none"
    )
    images = spec["config"]["train"]["batch_size_per_gpu"]
    candidates = []
    for scaling, batch in ((rule, images), (rule, spec["per_device_batch"]), ("none", images)):
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
