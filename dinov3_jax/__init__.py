"""DINOv3 in JAX: from raw images to a vision backbone."""

__version__ = "0.1.0"
