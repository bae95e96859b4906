"""A model into a file or folder that others read."""

import dataclasses
import json
import logging
import pathlib
from typing import Any

import numpy as np

from dinov3_jax import checkpoint
from dinov3_jax.config import CompleteVitConfig, ConvNextConfig, VitConfig
from dinov3_jax.convert import files, huggingface, names, released
from dinov3_jax.convert.official import WeightsError, to_official
from dinov3_jax.models.model import Model
from dinov3_jax.models.vit import rope_periods
from dinov3_jax.recipe import to_dict

FORMATS = ("official", "hf", "timm", "orbax")
_log = logging.getLogger(__name__)


def save(model: Model, path: pathlib.Path, form: str) -> None:
    """Writes ``model``; nothing that is at ``path`` is overwritten.

    "official": a .safetensors or .pth file with the published names, buffers included. "hf": a
    folder for transformers. "timm": a .safetensors or .pth file for timm's class with q and v
    biases. "orbax": a workdir of ours, whose student and teacher are the model. What a format has
    no place for is named in the log; ``WeightsError`` if features depend on it.
    """
    if path.exists():
        raise WeightsError(f"{path} is there already; choose another name or remove it")
    if form == "orbax":
        return _save_workdir(model, path)
    if form != "official":
        model = _with_layerscale(model)
    described = released.Description(model.name, model.config, model.mean, model.std)
    metadata = {"format": "pt", "dinov3_jax": released.to_json(described)}
    state = to_official(model.params)
    if form == "official":
        return files.write(path, state | _buffers(model.config), metadata)
    if form == "hf":
        config = huggingface.to_config(model.config)  # before anything is written
        _say_periods(model.config)
    state, dropped = names.to_foreign(state, form)
    for reason in sorted(set(dropped.values())):
        which = [name for name, why in dropped.items() if why == reason]
        _log.info("left out: %s (%d tensors; %s)", which[0], len(which), reason)
    if form == "timm":
        return files.write(path, state, metadata)
    if isinstance(model.config, CompleteVitConfig) and not model.config.storage_tokens:
        state["embeddings.register_tokens"] = np.zeros((1, 0, model.config.embed_dim), np.float32)
    files.write(path / "model.safetensors", state, metadata)
    side = 224 // model.stride * model.stride
    processor = huggingface.to_preprocessor(model.mean, model.std, side or model.stride)
    for name, content in (("config", config), ("preprocessor_config", processor)):
        (path / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def _buffers(config):
    """What official files store beside the parameters."""
    if isinstance(config, ConvNextConfig):
        return {}
    out = {"rope_embed.periods": np.asarray(rope_periods(config))}
    if config.qkv_bias and config.mask_k_bias:
        mask = np.repeat(np.asarray([1.0, 0.0, 1.0], np.float32), config.embed_dim)
        out |= {f"blocks.{i}.attn.qkv.bias_mask": mask for i in range(config.depth)}
    return out


def _with_layerscale(model):
    """The others always have LayerScale; a ViT without it is one with gamma 1."""
    if isinstance(model.config, ConvNextConfig) or model.config.layerscale is not None:
        return model
    gamma = np.ones((model.config.depth, model.config.embed_dim), np.float32)
    blocks = model.params["blocks"] | {name: {"gamma": gamma} for name in ("ls1", "ls2")}
    return dataclasses.replace(
        model,
        config=dataclasses.replace(model.config, layerscale=1.0),
        params=model.params | {"blocks": blocks},
    )


def _say_periods(config):
    if getattr(config, "rope_periods", None) is not None:
        exact = rope_periods(dataclasses.replace(config, rope_periods=None))
        off = float(np.abs(np.asarray(rope_periods(config)) / np.asarray(exact) - 1).max())
        _log.info(
            "transformers computes exact RoPE periods; these are up to %.2g %% off", 100 * off
        )


def _save_workdir(model, path):
    checkpoint.write_networks(path, {"backbone": model.params})
    values: dict[str, Any] = {
        k: getattr(model.config, k, None) for k in VitConfig.__dataclass_fields__
    }
    if isinstance(model.config, ConvNextConfig):
        neutral = vars(released.vit_section(model.config.arch))
        values = neutral | {k: v for k, v in values.items() if v is not None}
        values["patch_size"] = values["patch_size"] or 16  # a recipe wants a number
    described = released.Description(model.name, model.config, model.mean, model.std)
    saved = {
        "config": {"name": model.name, "steps": 0, "student": to_dict(VitConfig(**values))},
        "model": json.loads(released.to_json(described)),
        "data": "converted weights",
    }
    (path / "config.json").write_text(json.dumps(saved, indent=2))
