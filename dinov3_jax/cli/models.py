"""The flags of a verb that takes a model: ``--model=NAME_OR_PATH [--weights=PATH]``."""

import argparse

import dinov3_jax
from dinov3_jax.models.model import Model


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="name, such as dinov3_vitb16, or a workdir")
    parser.add_argument("--weights", help="file or folder with the weights of that name")


def open_model(options: argparse.Namespace) -> Model:
    return dinov3_jax.load(options.model, weights=options.weights)
