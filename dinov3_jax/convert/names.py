"""Official names <-> those of Hugging Face's transformers and of timm, one table for both ways.

A pattern is a dotted name; each ``*`` stands for one word. Where theirs is a tuple, the official
tensor is theirs one below the other, in equal parts; ``None`` is a part of zeros that they do not
store: the bias of k, which a softmax cannot see and our models mask.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dinov3_jax.convert.official import WeightsError

_QKV = "layer.*.attention.{}_proj.{}"
_HF_VIT = (
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("storage_tokens", "embeddings.register_tokens"),
    ("patch_embed.proj.*", "embeddings.patch_embeddings.*"),
    ("blocks.*.norm1.*", "layer.*.norm1.*"),
    ("blocks.*.norm2.*", "layer.*.norm2.*"),
    ("blocks.*.attn.qkv.weight", tuple(_QKV.format(part, "weight") for part in "qkv")),
    ("blocks.*.attn.qkv.bias", (_QKV.format("q", "bias"), None, _QKV.format("v", "bias"))),
    ("blocks.*.attn.proj.*", "layer.*.attention.o_proj.*"),
    ("blocks.*.ls1.gamma", "layer.*.layer_scale1.lambda1"),
    ("blocks.*.ls2.gamma", "layer.*.layer_scale2.lambda1"),
    ("norm.*", "norm.*"),
)
_HF_MLP = (
    ("blocks.*.mlp.fc1.*", "layer.*.mlp.up_proj.*"),
    ("blocks.*.mlp.fc2.*", "layer.*.mlp.down_proj.*"),
)
_HF_GATED = (
    ("blocks.*.mlp.w1.*", "layer.*.mlp.gate_proj.*"),
    ("blocks.*.mlp.w2.*", "layer.*.mlp.up_proj.*"),
    ("blocks.*.mlp.w3.*", "layer.*.mlp.down_proj.*"),
)
_HF_CONVNEXT = (
    ("downsample_layers.*.*.*", "stages.*.downsample_layers.*.*"),
    ("stages.*.*.dwconv.*", "stages.*.layers.*.depthwise_conv.*"),
    ("stages.*.*.norm.*", "stages.*.layers.*.layer_norm.*"),
    ("stages.*.*.pwconv1.*", "stages.*.layers.*.pointwise_conv1.*"),
    ("stages.*.*.pwconv2.*", "stages.*.layers.*.pointwise_conv2.*"),
    ("stages.*.*.gamma", "stages.*.layers.*.gamma"),
    ("norm.*", "layer_norm.*"),
)
_TIMM_VIT = (
    ("cls_token", "cls_token"),
    ("storage_tokens", "reg_token"),
    ("patch_embed.proj.*", "patch_embed.proj.*"),
    ("blocks.*.norm1.*", "blocks.*.norm1.*"),
    ("blocks.*.norm2.*", "blocks.*.norm2.*"),
    ("blocks.*.attn.qkv.weight", "blocks.*.attn.qkv.weight"),
    ("blocks.*.attn.qkv.bias", ("blocks.*.attn.q_bias", None, "blocks.*.attn.v_bias")),
    ("blocks.*.attn.proj.*", "blocks.*.attn.proj.*"),
    ("blocks.*.ls1.gamma", "blocks.*.gamma_1"),
    ("blocks.*.ls2.gamma", "blocks.*.gamma_2"),
    ("norm.*", "norm.*"),
)
_TIMM_MLP = (
    ("blocks.*.mlp.fc1.*", "blocks.*.mlp.fc1.*"),
    ("blocks.*.mlp.fc2.*", "blocks.*.mlp.fc2.*"),
)
_TIMM_GATED = (
    ("blocks.*.mlp.w1.*", "blocks.*.mlp.fc1_g.*"),
    ("blocks.*.mlp.w2.*", "blocks.*.mlp.fc1_x.*"),
    ("blocks.*.mlp.w3.*", "blocks.*.mlp.fc2.*"),
)
_TIMM_CONVNEXT = (
    ("downsample_layers.0.*.*", "stem.*.*"),
    ("downsample_layers.*.*.*", "stages.*.downsample.*.*"),
    ("stages.*.*.dwconv.*", "stages.*.blocks.*.conv_dw.*"),
    ("stages.*.*.norm.*", "stages.*.blocks.*.norm.*"),
    ("stages.*.*.pwconv1.*", "stages.*.blocks.*.mlp.fc1.*"),
    ("stages.*.*.pwconv2.*", "stages.*.blocks.*.mlp.fc2.*"),
    ("stages.*.*.gamma", "stages.*.blocks.*.gamma"),
    ("norm.*", "head.norm.*"),
)
# (format, a word that its names alone have) -> table; the first that is found counts.
_FOREIGN = (
    ("hf", "gate_proj", _HF_VIT + _HF_GATED),
    ("hf", "patch_embeddings", _HF_VIT + _HF_MLP),
    ("hf", "depthwise_conv", _HF_CONVNEXT),
    ("timm", "fc1_g", _TIMM_VIT + _TIMM_GATED),
    ("timm", "gamma_1", _TIMM_VIT + _TIMM_MLP),
    ("timm", "conv_dw", _TIMM_CONVNEXT),
)
_OFFICIAL = {  # (format, a word of official names) -> table
    "hf": {"w1": _HF_VIT + _HF_GATED, "fc1": _HF_VIT + _HF_MLP, "dwconv": _HF_CONVNEXT},
    "timm": {"w1": _TIMM_VIT + _TIMM_GATED, "fc1": _TIMM_VIT + _TIMM_MLP, "dwconv": _TIMM_CONVNEXT},
}
# Official tensors that a format has no place for, and why that loses nothing at inference.
UNSAID = {
    "mask_token": "training only",
    "local_cls_norm.*": "training only",
    "rope_embed.periods": "computed from the configuration",
    "blocks.*.attn.qkv.bias_mask": "constant",
    "norms.*.*": "a second copy of the final norm",
}
# A word of the names of published heads -> what it is.
_HEADS = {
    "reassemble_blocks": "a dense prediction (DPT) head",
    "segmentation_model": "a segmentation head",
    "pixel_decoder": "a segmentation head",
    "class_embed": "a detection head",
    "dino_head": "DINO heads",
}


class Named(NamedTuple):
    """A state dict under other names."""

    state: dict[str, Any]
    dropped: dict[str, str]  # name before -> why it is not in ``state``


class Rows:
    """Tensors one below the other, read when asked for; ``None`` is zeros."""

    def __init__(self, parts: list[Any]):
        first = next(part for part in parts if part is not None)
        self.parts, self.shape = parts, (len(parts) * first.shape[0], *first.shape[1:])

    def __array__(self, dtype=None, copy=None):
        arrays = [None if part is None else np.asarray(part) for part in self.parts]
        first = next(array for array in arrays if array is not None)
        return np.concatenate([np.zeros_like(first) if x is None else x for x in arrays])


class Reshaped:
    """A tensor of another shape, read when asked for."""

    def __init__(self, tensor: Any, shape: tuple[int, ...]):
        self.tensor, self.shape = tensor, shape

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.tensor).reshape(self.shape)


def from_foreign(state: Mapping[str, Any]) -> tuple[str, Named]:
    """(format "official" | "hf" | "timm", the same tensors under official names).

    Takes transformers' names with and without the prefix of version 5, and official names of a
    backbone or a training export, whose heads are dropped. Raises ``WeightsError`` for names of no
    backbone.
    """
    words = {word for name in state for word in name.split(".")}
    for form, mark, table in _FOREIGN:
        if mark in words:
            return form, _rename_back(state, table)
    if {"patch_embed", "downsample_layers"} & words:
        return "official", _bare(state)
    head = next((text for word, text in _HEADS.items() if word in words), None)
    if head is None and set(state) == {"weight", "bias"}:
        head = "a linear classifier"
    some = ", ".join(sorted(state)[:4])
    raise WeightsError(
        f"these are the tensors of {head or 'no backbone that is known'} ({some} ...); wanted a "
        "backbone with the names of the official files, of transformers or of timm"
    )


def to_foreign(state: Mapping[str, np.ndarray], form: str) -> Named:
    """A backbone's official tensors under the names of ``form``: "hf" or "timm".

    Raises ``WeightsError`` for a tensor that changes features and has no place there.
    """
    words = {word for name in state for word in name.split(".")}
    table = next(table for mark, table in _OFFICIAL[form].items() if mark in words)
    out, dropped = {}, {}
    for name, tensor in state.items():
        theirs = next((found for ours, their in table if (found := _put(name, ours, their))), None)
        if theirs is None:
            dropped[name] = _unsaid(name, form)
        elif isinstance(theirs, str):
            # transformers keeps the mask token with one more axis.
            out[theirs] = tensor[None] if (name, form) == ("mask_token", "hf") else tensor
        else:
            for part, piece in zip(theirs, np.split(np.asarray(tensor), len(theirs))):
                if part is not None:
                    out[part] = piece
                elif piece.any():
                    dropped[f"{name}, of k"] = "masked: it counts as zero"
    return Named(out, dropped)


def _rename_back(state, table):
    names = {name.removeprefix("model."): name for name in state}
    out, left = {}, set(names)
    for ours, their in table:
        patterns = their if isinstance(their, tuple) else (their,)
        first = next(pattern for pattern in patterns if pattern is not None)
        for name in names:
            official = _put(name, first, ours)
            if official is None or official in out or name not in left:
                continue
            parts = [pattern and _put(name, first, pattern) for pattern in patterns]
            absent = [part for part in parts if part is not None and part not in names]
            if absent:
                raise WeightsError(f"{absent[0]} is missing, while {name} is there")
            left -= set(parts)
            tensors = [None if part is None else state[names[part]] for part in parts]
            out[official] = tensors[0] if len(tensors) == 1 else Rows(tensors)
    if "mask_token" in out:
        out["mask_token"] = Reshaped(out["mask_token"], out["mask_token"].shape[1:])
    if "storage_tokens" in out and 0 in out["storage_tokens"].shape:
        del out["storage_tokens"]  # an empty tensor stands for none
    return Named(out | {name: state[names[name]] for name in left}, {})


def _bare(state):
    """A backbone's official names without the prefixes of wrappers."""
    out, dropped = {}, {}
    for name, tensor in state.items():
        bare = name.removeprefix("module.")
        if bare.startswith(("dino_head.", "ibot_head.", "dino_loss.", "ibot_patch_loss.")):
            dropped[name] = "of the training heads"
        else:
            out[bare.removeprefix("backbone.").removeprefix("module.")] = tensor
    return Named(out, dropped)


def _put(name, source, target):
    """``name`` matched by pattern ``source``, its words put into ``target``; None: no match."""
    words, holes = name.split("."), source.split(".")
    if len(words) != len(holes) or any(h not in ("*", w) for w, h in zip(words, holes)):
        return None
    if isinstance(target, tuple):
        return tuple(pattern and _put(name, source, pattern) for pattern in target)
    # A word that ``target`` names itself ("downsample_layers.0") fills no hole of it.
    caught = iter(word for word, hole in zip(words, holes) if hole == "*")
    return ".".join(next(caught) if hole == "*" else hole for hole in target.split("."))


def _unsaid(name, form):
    for pattern, why in UNSAID.items():
        if _put(name, pattern, pattern):
            return why
    raise WeightsError(
        f"{name} has no place in the format {form!r}, and features depend on it; convert to "
        "'official' or 'orbax'"
    )
