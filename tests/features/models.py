"""Tiny models with random weights, and folders of images."""

import dataclasses

import jax
import numpy as np
from PIL import Image

from dinov3_jax.config import MeshConfig
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.models.model import random_model
from dinov3_jax.models.presets import complete
from tests.tiny import tiny_config


def vit(seed=0, patch_size=4):
    """2 blocks, 2 heads, D = 16."""
    return random_model("tiny", vit_config(patch_size), seed=seed)


def vit_config(patch_size):
    return complete(dataclasses.replace(tiny_config().student, patch_size=patch_size))


def convnext(patch_size=None):
    return random_model("tiny_convnext", convnext_config(patch_size))


def convnext_config(patch_size=None):
    """Stride 32, stages of widths 8, 8, 8, 12."""
    student = dataclasses.replace(
        tiny_config().student,
        arch="convnext_tiny",
        patch_size=patch_size,
        embed_dim=None,
        depth=None,
        num_heads=None,
        stage_depths=(1, 1, 1, 1),
        stage_dims=(8, 8, 8, 12),
    )
    return complete(student)


def mesh(devices=2):
    return make_mesh(MeshConfig(-1, 1, 1, 1), jax.devices()[:devices])


def images(n, height=8, width=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)


def write_images(folder, n, height=8, width=12):
    """PNGs 00.png ..; returns their pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = images(n, height, width)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return pixels
