"""The flags with which every verb names a model."""

import argparse

import dinov3_jax
from dinov3_jax.models.model import Model


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="NAME_OR_PATH")
    parser.add_argument("--weights", metavar="PATH")


def open_model(options: argparse.Namespace) -> Model:
    return dinov3_jax.load(options.model, weights=options.weights)
