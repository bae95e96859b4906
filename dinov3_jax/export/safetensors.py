"""Safetensors: the weights alone, under the official names, with the model's description."""

import pathlib

from dinov3_jax.convert import files, official, released
from dinov3_jax.models.model import Model
from dinov3_jax.types import Params


def write(model: Model, path: pathlib.Path) -> None:
    """Tensors as in PyTorch (matrices [out, in], kernels [out, in, h, w]), without buffers.

    The header holds ``format`` "pt" and, under ``dinov3_jax``, the description with which
    ``dinov3_jax.load`` reads the file.
    """
    described = released.Description(model.name, model.config, model.mean, model.std)
    metadata = {"format": "pt", "dinov3_jax": released.to_json(described)}
    files.write_safetensors(path, official.to_official(model.params), metadata)


def load(path: pathlib.Path, like: Params) -> Params:
    """The parameters in a file of ``write``, as a tree with the shapes of ``like``."""
    return official.from_official(files.read_safetensors(path).tensors, like)
