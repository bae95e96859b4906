"""``dinov3 export --model=... --to=FORMAT --out=PATH``: a model for other programs."""

import argparse
import pathlib
import re

from dinov3_jax.cli.models import add_model_flags, open_model
from dinov3_jax.export.export import FORMATS, export
from dinov3_jax.export.signature import ExportError, Signature


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "dinov3 export",
        description="Writes a model for other programs, runs what it wrote and fails if the "
        "numbers differ. docs/export.md shows how to use each file.",
        allow_abbrev=False,
    )
    add_model_flags(parser)
    parser.add_argument("--to", required=True, choices=FORMATS)
    parser.add_argument("--out", required=True, help="file; for savedmodel a folder")
    parser.add_argument("--size", help="of the images: 224 (the default), HEIGHTxWIDTH or any")
    parser.add_argument("--batch", help="images at a time: a number, or any (the default)")
    parser.add_argument("--outputs", choices=("cls", "tokens"), help="tokens: all (the default)")
    parser.add_argument(
        "--pixels", action="store_true", help="take uint8 levels and normalise inside"
    )
    options = parser.parse_args(argv)
    signature = _signature(options)
    worst = export(
        open_model(options), pathlib.Path(options.out), to=options.to, signature=signature
    )
    print(
        f"{options.out}: agrees with the model to {worst:.1e} of the output's scale; what it takes "
        f"and gives stands in {options.out}.json"
    )


def _signature(options: argparse.Namespace) -> Signature | None:
    if options.to == "safetensors":
        names = ("size", "batch", "outputs", "pixels")
        given = [f"--{name}" for name in names if getattr(options, name)]
        if given:
            raise ExportError(
                f"{', '.join(given)} does not go with --to=safetensors, which holds weights and no "
                "program: leave it out"
            )
        return None
    return Signature(
        batch=_batch(options.batch or "any"),
        size=_size(options.size or "224"),
        outputs=options.outputs or "tokens",
        pixels=options.pixels,
    )


def _batch(text: str) -> int | None:
    if text == "any":
        return None
    if not re.fullmatch(r"[1-9]\d*", text):
        raise ExportError(f"--batch is {text!r}, wanted a positive number or 'any'")
    return int(text)


def _size(text: str) -> tuple[int, int] | None:
    """Height and width; None for "any"."""
    if text == "any":
        return None
    if not re.fullmatch(r"\d+(x\d+)?", text):
        raise ExportError(f"--size is {text!r}, wanted pixels such as 224, HEIGHTxWIDTH or 'any'")
    height, _, width = text.partition("x")
    return int(height), int(width or height)
