"""``dinov3 convert SRC DST --to=FORMAT``: weights from any known format into another."""

import argparse
import pathlib

from dinov3_jax.convert.save import FORMATS, save
from dinov3_jax.loading import load


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "dinov3 convert",
        description="Weights of a released model or of a run, bit for bit, into another format "
        "(docs/weights.md).",
    )
    parser.add_argument("source", metavar="SRC", help="name, file, folder or workdir")
    parser.add_argument("target", metavar="DST", help="file or folder that is not there yet")
    parser.add_argument("--to", required=True, choices=FORMATS)
    parser.add_argument("--weights", help="the tensors, where SRC only says which model")
    parser.add_argument(
        "--item", default="teacher", choices=("teacher", "student", "gram_teacher"), help="of a run"
    )
    options = parser.parse_args(argv)
    model = load(options.source, options.weights, rope_periods="kept", item=options.item)
    save(model, pathlib.Path(options.target), options.to)
    print(f"{options.target}: {model.name} in the format {options.to}")
