"""Safetensors: the weights alone, under the official names, with the configuration as metadata."""

import json
import pathlib

import numpy as np

from dinov3_jax.convert import official
from dinov3_jax.export.signature import metadata, need
from dinov3_jax.models.model import Model
from dinov3_jax.types import Params


def write(model: Model, path: pathlib.Path) -> None:
    """Tensors as in PyTorch (matrices [out, in], kernels [out, in, h, w]), without buffers.

    The header holds ``format`` "pt" and, under ``dinov3_jax``, ``signature.metadata`` as JSON.
    """
    need("safetensors", "safetensors")
    import safetensors.numpy

    tensors = official.to_official(model.params)
    safetensors.numpy.save_file(
        # Safetensors writes the memory of a transposed array as if it were not.
        {name: np.ascontiguousarray(value) for name, value in tensors.items()},
        str(path),
        metadata={"format": "pt", "dinov3_jax": json.dumps(metadata(model, None))},
    )


def load(path: pathlib.Path, like: Params) -> Params:
    """The parameters in a file of ``write``, as a tree with the shapes of ``like``."""
    import safetensors.numpy

    return official.from_official(safetensors.numpy.load_file(str(path)), like)
