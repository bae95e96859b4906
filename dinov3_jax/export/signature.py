"""What an exported program takes and gives, whatever the format of its file."""

import dataclasses
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp

from dinov3_jax.augment.normalize import normalize
from dinov3_jax.config import CompleteVitConfig
from dinov3_jax.models.model import Model
from dinov3_jax.types import Params


class ExportError(ValueError):
    """An export that cannot be made, or one that gives other numbers than the model."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """One input ``images`` [B, H, W, c]; outputs by name, float32.

    ``outputs="cls"``: cls [B, D]. ``"tokens"``: cls, storage_tokens [B, R, D] where the model has
    any, and patch_tokens [B, N, D].
    """

    batch: int | None  # None: any
    size: tuple[int, int] | None  # H, W in pixels; None: any multiples of the model's stride
    outputs: str
    pixels: bool  # True: uint8 levels, normalised inside; False: float32, normalised before

    @property
    def dtype(self) -> str:
        return "uint8" if self.pixels else "float32"


def check(signature: Signature, model: Model, *, to: str) -> None:
    """``ExportError`` where ``model`` cannot be exported so to the format ``to``."""
    stride = model.stride
    if signature.size is None:
        if to == "onnx":
            raise ExportError(
                "--size=any does not go with --to=onnx, whose file holds the position embedding of "
                "one size: give --size=HxW, one file a size, or use --to=stablehlo"
            )
        if getattr(model.config, "rope_normalize", "separate") != "separate":
            raise ExportError(
                f"--size=any does not go with rope_normalize={model.config.rope_normalize!r}, "
                "which asks which side is longer before the sides are known: give --size=HxW"
            )
        return
    height, width = signature.size
    if height % stride or width % stride or min(height, width) < stride:
        fit = "x".join(str(max(side // stride, 1) * stride) for side in signature.size)
        raise ExportError(
            f"--size is {height}x{width}, wanted multiples of the model's stride {stride}, such as "
            f"{fit}"
        )


def portable(model: Model) -> Model:
    """The same model without a kernel of one chip."""
    config = model.config
    if isinstance(config, CompleteVitConfig):
        config = dataclasses.replace(config, attention="xla")
    return dataclasses.replace(model, config=config)


def program(
    params: Params, images: jax.Array, *, model: Model, signature: Signature
) -> dict[str, jax.Array]:
    """The outputs of ``signature`` for ``images``; ``params`` in place of the model's own."""
    if signature.pixels:
        images = normalize(images, mean=model.mean, std=model.std)
    features = dataclasses.replace(model, params=params)(images)
    return {
        name: getattr(features, name).astype(jnp.float32) for name in output_names(model, signature)
    }


def output_names(model: Model, signature: Signature) -> list[str]:
    if signature.outputs == "cls":
        return ["cls"]
    storage = ["storage_tokens"] if getattr(model.config, "storage_tokens", 0) else []
    return ["cls", *storage, "patch_tokens"]


def metadata(model: Model, signature: Signature | None) -> dict[str, Any]:
    """What a user of the file must know, of JSON types; ``None``: weights without a program."""
    facts = {
        "model": model.name,
        "config": dataclasses.asdict(model.config),
        "mean": list(model.mean),
        "std": list(model.std),
        "stride": model.stride,
    }
    if signature is None:
        return facts
    side = f"multiples of {model.stride}"
    batch = "any" if signature.batch is None else signature.batch
    size = [side, side] if signature.size is None else list(signature.size)
    meaning = (
        "levels 0..255, red green blue; normalised inside"
        if signature.pixels
        else "(levels / 255 - mean) / std, red green blue; normalise before"
    )
    return facts | {
        "images": {
            "shape": [batch, *size, model.config.in_channels],
            "dtype": signature.dtype,
            "meaning": meaning,
        },
        "outputs": output_names(model, signature),
    }


def need(extra: str, *packages: str) -> None:
    """``ExportError`` with the command that installs them unless all packages are there."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"--to={extra} needs {' and '.join(missing)}: pip install 'dinov3_jax[{extra}]' "
            f"(in a clone: pip install -e '.[{extra}]')"
        )
