"""Weights from Hugging Face repositories."""

import pathlib

from dinov3_jax.convert.official import WeightsError
from dinov3_jax.convert.released import Released


def download(name: str, row: Released | None) -> pathlib.Path:
    """The folder of a repository's configuration and weights, downloaded once.

    ``name`` is a repository unless ``row`` has one. Raises ``WeightsError`` that says what to do if
    the licence was not accepted, the network does not answer or ``huggingface_hub`` is absent.
    """
    repository = name if row is None or name.count("/") == 1 else row.hub
    if repository is None:
        raise WeightsError(
            f"{name} has no Hugging Face repository; download its official file and give "
            f"load({name!r}, weights=FILE)"
        )
    local = f"or give a local file: load({name!r}, weights=FILE)"
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise WeightsError(
            f"downloading {repository} needs huggingface_hub: pip install 'dinov3_jax[hub]'; "
            f"{local}"
        ) from error
    try:
        patterns = ["*.json", "*.safetensors"]
        return pathlib.Path(snapshot_download(repository, allow_patterns=patterns))
    except Exception as error:  # the library has a dozen types, and those of its HTTP client
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise WeightsError(
                f"Hugging Face refuses {repository} ({status}): accept its licence on "
                f"https://huggingface.co/{repository}, then log in with 'hf auth login'; {local}"
            ) from error
        reason = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"{repository} cannot be downloaded ({type(error).__name__}: {reason}); check name and "
            f"network, {local}"
        ) from error
