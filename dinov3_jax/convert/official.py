"""Official (PyTorch) parameter names and layouts <-> ours.

Official names are flat (``blocks.3.attn.qkv.weight``), matrices are [out, in], images NCHW. Ours
are nested, blocks stacked along a leading axis, matrices [in, out], images NHWC. One table serves
both directions; every tensor is accounted for or the conversion fails.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dinov3_jax.types import Params


class WeightsError(ValueError):
    """Weights that cannot be loaded or written, and what to do."""


# Ours -> official, inside a block and outside.
_BLOCK = {
    "norm1/scale": "norm1.weight",
    "norm1/bias": "norm1.bias",
    "attn/qkv/kernel": "attn.qkv.weight",
    "attn/qkv/bias": "attn.qkv.bias",
    "attn/proj/kernel": "attn.proj.weight",
    "attn/proj/bias": "attn.proj.bias",
    "ls1/gamma": "ls1.gamma",
    "norm2/scale": "norm2.weight",
    "norm2/bias": "norm2.bias",
    "ffn/fc1/kernel": "mlp.fc1.weight",
    "ffn/fc1/bias": "mlp.fc1.bias",
    "ffn/fc2/kernel": "mlp.fc2.weight",
    "ffn/fc2/bias": "mlp.fc2.bias",
    "ffn/gate/kernel": "mlp.w1.weight",
    "ffn/gate/bias": "mlp.w1.bias",
    "ffn/value/kernel": "mlp.w2.weight",
    "ffn/value/bias": "mlp.w2.bias",
    "ffn/out/kernel": "mlp.w3.weight",
    "ffn/out/bias": "mlp.w3.bias",
    "ls2/gamma": "ls2.gamma",
}
_BACKBONE = {
    "cls_token": "cls_token",
    "storage_tokens": "storage_tokens",
    "mask_token": "mask_token",
    "patch_embed/kernel": "patch_embed.proj.weight",
    "patch_embed/bias": "patch_embed.proj.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
    "cls_norm/scale": "cls_norm.weight",
    "cls_norm/bias": "cls_norm.bias",
    "local_cls_norm/scale": "local_cls_norm.weight",
    "local_cls_norm/bias": "local_cls_norm.bias",
}
# The same of a ConvNeXt, whose stages hold a downsampling layer each and blocks.
_CONVNEXT_BLOCK = {
    "depthwise/kernel": "dwconv.weight",
    "depthwise/bias": "dwconv.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
    "fc1/kernel": "pwconv1.weight",
    "fc1/bias": "pwconv1.bias",
    "fc2/kernel": "pwconv2.weight",
    "fc2/bias": "pwconv2.bias",
    "ls/gamma": "gamma",
}
_DOWNSAMPLE = {"kernel": "weight", "scale": "weight", "bias": "bias"}
# Derived from the configuration, not learned.
BUFFERS = r"(rope_embed\.periods|attn\.qkv\.bias_mask)$"


def flatten(tree: Params, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts -> {"a/b": leaf}."""
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, path + "/") if isinstance(value, dict) else {path: value}
    return flat


def unflatten(flat: dict[str, np.ndarray]) -> Params:
    """{"a/b": leaf} -> nested dicts."""
    tree: Params = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def to_official(params: Params) -> dict[str, np.ndarray]:
    """Our parameters -> flat official names, without buffers.

    ``params`` is {backbone, dino_head, ibot_head} (names get those prefixes) or a backbone alone.
    """
    out = {}
    flat = flatten(params)
    for path, value in flat.items():
        value = np.asarray(value)
        names = _official_names(path, flat)
        for name, piece in zip(names, value if _stacked(path) else [value], strict=True):
            out[name] = _outward(path, piece)
    return out | {alias: out[name] for alias, name in _aliases(out).items()}


def from_official(state: Mapping[str, Any], like: Params) -> Params:
    """The inverse of ``to_official`` for a tree of leaves with the shapes of ``like``; float32.

    Values of ``state`` are arrays, or stand for one (``shape``, ``__array__``): they are read one
    after the other, each straight to its place, once all are known to fit. On the CPU
    ``jax.device_put`` takes the result over without a copy. Raises ``WeightsError`` naming tensors
    that are missing, left over or of another shape.
    """
    flat = flatten(like)
    state = {name: value for name, value in state.items() if not re.search(BUFFERS, name)}
    names = {path: _official_names(path, flat) for path in flat}
    used = {name for of_path in names.values() for name in of_path}
    misfits = []
    for path, leaf in flat.items():
        missing = [name for name in names[path] if name not in state]
        misfits += [f"{name} is missing" for name in missing]
        wanted = leaf.shape[1:] if _stacked(path) else leaf.shape
        for name in names[path]:
            if name in state and (got := _inward_shape(path, state[name].shape)) != wanted:
                misfits.append(f"{name} gives {got}, the model has {wanted} at {path}")
    for alias, name in _aliases(used).items():
        used.add(alias)
        if {alias, name} <= state.keys() and not np.array_equal(state[alias], state[name]):
            misfits.append(f"{alias} differs from {name}, of which it is a copy")
    misfits += [f"{name} is left over" for name in sorted(state.keys() - used)]
    if misfits:
        more = f" and {len(misfits) - 12} more" if len(misfits) > 12 else ""
        raise WeightsError(
            f"official tensors do not fit the model: {'; '.join(misfits[:12])}{more}"
        )
    out = {}
    for path, leaf in flat.items():
        whole = _aligned(leaf.shape)
        for place, name in zip(whole if _stacked(path) else [whole], names[path], strict=True):
            place[...] = _inward(path, np.asarray(state[name]))
        out[path] = whole
    return unflatten(out)


def _aligned(shape):
    """Empty float32 on a border of 64 bytes, which XLA on the CPU uses without a copy."""
    size = math.prod(shape) * 4
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.float32).reshape(shape)


def _stacked(path):
    return "blocks/" in path


def _official_names(path, flat):
    """The official tensors that make up the leaf at ``path``, in stacking order."""
    network, _, inner = path.partition("/")
    prefix = f"{network}."
    if network not in ("backbone", "dino_head", "ibot_head"):
        network, prefix, inner = "backbone", "", path
    if inner.startswith("blocks/"):
        name = _BLOCK[inner.removeprefix("blocks/")]
        return [f"{prefix}blocks.{i}.{name}" for i in range(flat[path].shape[0])]
    if inner.startswith("stage"):
        return [prefix + name for name in _stage_names(inner, flat[path].shape[0])]
    if network == "backbone":
        return [prefix + _BACKBONE[inner]]
    if inner.startswith("prototypes"):
        return [f"{prefix}last_layer.weight"]
    layer, leaf = inner.split("/")
    leaf = "weight" if leaf == "kernel" else "bias"
    single = f"{network}/fc2/kernel" not in flat
    index = 2 * int(layer.removeprefix("fc")) - 2  # activations count in between
    return [f"{prefix}mlp.{leaf}" if single else f"{prefix}mlp.{index}.{leaf}"]


def _stage_names(inner, depth):
    stage, part, rest = inner.removeprefix("stage").split("/", 2)
    if part == "blocks":
        return [f"stages.{stage}.{i}.{_CONVNEXT_BLOCK[rest]}" for i in range(depth)]
    layer, leaf = rest.split("/")
    second = "norm" if stage == "0" else "conv"  # the stem normalises last
    return [f"downsample_layers.{stage}.{int(layer == second)}.{_DOWNSAMPLE[leaf]}"]


def _aliases(names):
    """{a ConvNeXt's second name of its final norm: the first}; empty for other networks."""
    if not any("downsample_layers." in name for name in names):
        return {}
    norms = [name for name in names if re.fullmatch(r"(backbone\.)?norm\.\w+", name)]
    return {name.replace("norm.", "norms.3."): name for name in norms}


def _outward(path, x):
    if path.endswith("kernel"):
        return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T
    return x.reshape(*[1] * _lead(path), *x.shape)


def _inward(path, x):
    if path.endswith("kernel"):
        return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
    return x.reshape(x.shape[_lead(path) :])


def _inward_shape(path, shape):
    if len(shape) < _lead(path) or math.prod(shape[: _lead(path)]) != 1:
        return shape
    return _inward(path, np.broadcast_to(np.float32(0), shape)).shape


def _lead(path):
    """Leading axes of length 1 that the official tensor has in front of ours."""
    return {"cls_token": 2, "storage_tokens": 1, "mask_token": 1}.get(path.rsplit("/", 1)[-1], 0)
