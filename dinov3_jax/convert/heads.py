"""Names of head files (official, transformers) <-> ours; every tensor is accounted for.

As in ``official``: theirs are flat, [out, in] and NCHW; ours nested, [in, out] and NHWC.
"""

import re

import numpy as np

from dinov3_jax.convert.official import flatten, unflatten
from dinov3_jax.types import Params

# Ours -> official, without the last part of the name.
_LAYERS = {
    r"reassemble(\d)/norm": r"reassemble_blocks.batchnorm_layers.\1",
    r"reassemble(\d)/readout": r"reassemble_blocks.readout_projects.\1.0",
    r"reassemble(\d)/project": r"reassemble_blocks.projects.\1.conv",
    r"reassemble(\d)/resize": r"reassemble_blocks.resize_layers.\1",
    r"reassemble(\d)/out": r"convs.\1.conv",
    r"fusion(\d)/unit(\d)/conv(\d)": r"fusion_blocks.\1.res_conv_unit\2.conv\3.conv",
    r"fusion(\d)/project": r"fusion_blocks.\1.project.conv",
    r"project": r"project.conv",
    # Resizing and relu count in between.
    r"conv1": r"conv_depth.head.0",
    r"conv2": r"conv_depth.head.2",
    r"conv3": r"conv_depth.head.4",
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# transformers -> official, the start of a name.
_TRANSFORMERS = {
    r"head\.reassemble_stage\.layers\.(\d)\.projection\.": r"reassemble_blocks.projects.\1.conv.",
    r"head\.reassemble_stage\.layers\.(\d)\.resize\.": r"reassemble_blocks.resize_layers.\1.",
    r"head\.reassemble_stage\.readout_projects\.": r"reassemble_blocks.readout_projects.",
    r"head\.convs\.(\d)\.": r"convs.\1.conv.",
    r"head\.fusion_layers\.(\d)\.projection\.": r"fusion_blocks.\1.project.conv.",
    r"head\.fusion_layers\.(\d)\.residual_layer(\d)\.convolution(\d)\.": (
        r"fusion_blocks.\1.res_conv_unit\2.conv\3.conv."
    ),
    r"head\.conv_depth\.head\.": r"conv_depth.head.",
}
# A count that training by batch statistics keeps; the statistics themselves are used.
_DROPPED = r"batchnorm_layers\.\d\.num_batches_tracked$"


def classifier_from_official(state: dict[str, np.ndarray]) -> Params:
    """{"weight" [K, F], "bias" [K]} -> {"kernel" [F, K], "bias" [K]}; else ``ValueError``."""
    shapes = {name: value.shape for name, value in state.items()}
    classes, features = {len(shape): shape for shape in shapes.values()}.get(2, (0, 0))
    if shapes != {"weight": (classes, features), "bias": (classes,)}:
        few = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:5])
        raise ValueError(
            f"not a linear classifier: wanted weight [K, F] and bias [K], got {len(shapes)} tensors"
            f": {few}"
        )
    return {"kernel": state["weight"].T, "bias": state["bias"]}


def dpt_to_official(params: Params) -> dict[str, np.ndarray]:
    """Our DPT parameters -> the official file's tensors."""
    return {
        _official_name(path): _outward(path, np.asarray(value))
        for path, value in flatten(params).items()
    }


def dpt_from_official(state: dict[str, np.ndarray], like: Params) -> Params:
    """The inverse of ``dpt_to_official``, for leaves of the shapes of ``like``.

    Raises ``ValueError`` naming tensors that are missing, left over or of another shape.
    """
    state = {name: value for name, value in state.items() if not re.search(_DROPPED, name)}
    flat = flatten(like)
    names = {path: _official_name(path) for path in flat}
    misfits = [f"{name} is missing" for name in names.values() if name not in state]
    misfits += [f"{name} is left over" for name in sorted(state.keys() - set(names.values()))]
    out = {path: _inward(path, state[name]) for path, name in names.items() if name in state}
    misfits += [
        f"{names[path]} gives {value.shape}, the head has {flat[path].shape} at {path}"
        for path, value in out.items()
        if value.shape != flat[path].shape
    ]
    if misfits:
        more = f"; and {len(misfits) - 8} more" if len(misfits) > 8 else ""
        raise ValueError("tensors do not fit the depth head: " + "; ".join(misfits[:8]) + more)
    return unflatten(out)


def dpt_from_transformers(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names of a transformers file with a depth head -> official ones; its backbone is left out.

    A name that is neither stays as it is, for ``dpt_from_official`` to refuse.
    """
    out = {}
    for name, value in state.items():
        if name.startswith("backbone."):
            continue
        for theirs, official in _TRANSFORMERS.items():
            name = re.sub(f"^{theirs}", official, name)
        out[name] = value
    return out


def _official_name(path):
    layer, leaf = path.rsplit("/", 1)
    for ours, official in _LAYERS.items():
        if re.fullmatch(ours, layer):
            return f"{re.sub(ours, official, layer)}.{_LEAVES[leaf]}"
    raise ValueError(f"{path} is no parameter of a depth head")


def _transposed(path):
    """A transposed convolution: theirs is [in, out, k, k]."""
    return re.fullmatch(r"reassemble[01]/resize/kernel", path)


def _outward(path, x):
    if not path.endswith("kernel") or x.ndim == 1:
        return x
    if x.ndim == 2:
        return x.T
    return x.transpose(2, 3, 0, 1) if _transposed(path) else x.transpose(3, 2, 0, 1)


def _inward(path, x):
    if not path.endswith("kernel") or x.ndim not in (2, 4):
        return x
    if x.ndim == 2:
        return x.T
    return x.transpose(2, 3, 0, 1) if _transposed(path) else x.transpose(2, 3, 1, 0)
