"""StableHLO: the serialised form of ``jax.export``, for CPU, CUDA and TPU, weights inside."""

import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dinov3_jax.export.signature import ExportError, Signature, need, program
from dinov3_jax.models.model import Model

PLATFORMS = ("cpu", "cuda", "tpu")
_MAX_BYTES = 1_900_000_000  # jax.export writes a flatbuffer, which ends at 2 GiB


def write(model: Model, path: pathlib.Path, signature: Signature) -> None:
    """A file for ``jax.export.deserialize``; ``model`` is portable, its weights on the host."""
    need("stablehlo", "flatbuffers")
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    if weights > _MAX_BYTES:
        raise ExportError(
            f"{model.name} has {weights / 1e9:.1f} GB of weights, a StableHLO file holds "
            f"{_MAX_BYTES / 1e9:.1f} GB: use --to=savedmodel or --to=onnx"
        )
    function = functools.partial(program, model.params, model=model, signature=signature)
    shape = jax.export.symbolic_shape(symbolic(model, signature))
    images = jax.ShapeDtypeStruct(shape, jnp.dtype(signature.dtype))
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(images)
    path.write_bytes(exported.serialize())


def load(path: pathlib.Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    return jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)


def symbolic(model: Model, signature: Signature) -> str:
    """The shape of the images as ``jax.export`` reads it, such as "b, 16*h, 16*w, 3"."""
    batch = "b" if signature.batch is None else signature.batch
    height, width = signature.size or (f"{model.stride}*h", f"{model.stride}*w")
    return f"{batch}, {height}, {width}, {model.config.in_channels}"
