"""The two flags of every verb that takes a model."""

import argparse

from dinov3_jax.loading import load
from dinov3_jax.models.model import Model


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME_OR_PATH",
        help="dinov3_vitb16 ..., the workdir of a run, a folder or file of weights",
    )
    parser.add_argument(
        "--weights", metavar="PATH", help="file, folder or workdir with its weights"
    )


def open_model(options: argparse.Namespace) -> Model:
    """The model of parsed flags; ``WeightsError`` as ``load`` raises it."""
    return load(options.model, weights=options.weights)
