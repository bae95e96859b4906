"""DINOv3 in JAX: from raw images to a vision backbone."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dinov3_jax.convert.released import list_models
    from dinov3_jax.loading import load

__version__ = "0.1.0"
__all__ = ["list_models", "load"]

# Imported when asked for: the data pipeline's processes must not import JAX.
_HOMES = {"load": "dinov3_jax.loading", "list_models": "dinov3_jax.convert.released"}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'dinov3_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
