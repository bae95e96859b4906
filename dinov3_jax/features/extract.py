"""Features of images from a frozen model: batches in, numpy arrays out, on all devices of a mesh.

Evaluations, curation and ``dinov3 features`` ask for features here.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from dinov3_jax.augment.normalize import normalize
from dinov3_jax.config import ConfigError, ConvNextConfig
from dinov3_jax.distributed import sharding
from dinov3_jax.distributed.mesh import batch_shards
from dinov3_jax.features.batches import in_batches
from dinov3_jax.models.model import Model

# What can be asked for -> the fields of ``Features``.
TOKENS = {"cls": ("cls",), "patch": ("patch_tokens",), "cls+patch": ("cls", "patch_tokens")}
DTYPES = ("float32", "float16")


def extractor(
    model: Model,
    mesh: Mesh,
    *,
    tokens: str,
    layers: tuple[int, ...] | None = None,
    norm: bool = True,
    dtype: str = "float32",
    batch: int = 64,
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function of images uint8 [n, H, W, 3], any n >= 1, H and W multiples of ``model.stride``.

    It returns ``cls`` [n, D] and ``patch_tokens`` [n, h, w, D], as ``tokens`` asks, after the final
    norm. With ``layers``, 0-based blocks (stages of a ConvNeXt), one array for each of them, with
    ``norm=False`` as they are without that norm:
    ``cls_2``, ``patch_tokens_2`` ... Images go through in batches of ``whole_batch(batch, mesh)``,
    the last one filled up with black images whose features are dropped, so that one shape of
    images is compiled once. The batch is spread over ``mesh``; parameters lie as
    ``distributed.sharding`` says, whole on each device of a mesh without ``fsdp``. Of several
    processes all call with the same images and get all features.

    Raises ``ConfigError`` for a name that does not exist, a layer that the model does not have,
    and, when called, features that are not finite.
    """
    if tokens not in TOKENS:
        raise ConfigError(f"tokens are {tokens!r}, wanted one of {', '.join(TOKENS)}")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}, wanted one of {', '.join(DTYPES)}")
    layers = None if layers is None else check_layers(model, layers)
    if layers is None and not norm:
        raise ConfigError("tokens without the final norm are those of layers; name the layers")
    size = whole_batch(batch, mesh)
    forward = _forward(model, TOKENS[tokens], layers, norm, dtype)
    specs = sharding.param_specs(model.params, mesh)
    params = jax.device_put(model.params, sharding.named(specs, mesh))

    def extract(images):
        height, width = images.shape[1:3]
        if height % model.stride or width % model.stride or not images.size:
            raise ValueError(
                f"images are {list(images.shape)}, wanted [n, H, W, 3] with n >= 1 and H, W "
                f"multiples of {model.stride}"
            )
        made = in_batches(functools.partial(forward, params), images, size=size, mesh=mesh)
        for name, x in made.items():
            if not np.isfinite(x).all():
                raise ConfigError(
                    f"features {name} of {model.name} are not finite; {_ADVICE[dtype]}"
                )
        return {name: _on_grid(model, name, x, height, width) for name, x in made.items()}

    return extract


def whole_batch(batch: int, mesh: Mesh) -> int:
    """``batch``, rounded up until it can be spread evenly over the devices of ``mesh``."""
    if batch < 1:
        raise ConfigError(f"batch is {batch}, wanted at least 1 image")
    shards = batch_shards(mesh)
    return -(-batch // shards) * shards


def check_layers(model: Model, layers: int | tuple[int, ...]) -> tuple[int, ...]:
    """0-based indices, ascending: ``layers`` themselves, or with a number the last so many."""
    config = model.config
    convnext = isinstance(config, ConvNextConfig)
    depth, unit = (len(config.stage_depths), "stages") if convnext else (config.depth, "blocks")
    wanted = range(depth - layers, depth) if isinstance(layers, int) else sorted(set(layers))
    if not wanted or wanted[0] < 0 or wanted[-1] >= depth:
        raise ConfigError(
            f"layers {layers} are asked of {model.name}, which has {depth} {unit}; give a number "
            f"from 1 to {depth} for the last ones, or indices from 0 to {depth - 1}"
        )
    return tuple(wanted)


def check_side(model: Model, side: int, key: str) -> None:
    """Raises ``ConfigError`` for a side in pixels, of setting ``key``, off the patch grid."""
    if side < 1 or side % model.stride:
        below = side // model.stride * model.stride
        choice = f"{below} or " if below > 0 else ""
        raise ConfigError(
            f"{key} is {side}, {model.name} has patches of {model.stride} pixels; take "
            f"{choice}{below + model.stride}"
        )


_ADVICE = {
    "float32": "its weights are damaged, or training diverged",
    "float16": "float16 ends at 65504: take float32",
}


def _forward(model, fields, layers, norm, dtype):
    @jax.jit
    def forward(params, images):
        images = normalize(images, mean=model.mean, std=model.std)
        frozen = dataclasses.replace(model, params=params)
        if layers is None:
            outputs = {"": frozen(images)}
        else:
            found = frozen.intermediate_layers(images, layers, norm=norm)
            outputs = {f"_{layer}": out for layer, out in zip(layers, found, strict=True)}
        return {
            field + suffix: getattr(out, field).astype(dtype)
            for suffix, out in outputs.items()
            for field in fields
        }

    return forward


def _on_grid(model, name, tokens, height, width):
    """[n, N, D] -> [n, h, w, D]; ``cls`` stays [n, D]."""
    if not name.startswith("patch_tokens"):
        return tokens
    stride, layer = model.stride, name.removeprefix("patch_tokens").removeprefix("_")
    if layer and isinstance(model.config, ConvNextConfig):
        stride = model.config.patch_size or 4 << int(layer)  # stages of stride 4, 8, 16, 32
    return tokens.reshape(len(tokens), height // stride, width // stride, -1)
