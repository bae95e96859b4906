"""``dinov3 features --model=... --images=... --out=DIR``: docs/features.md."""

import argparse
import re
import time

import jax

from dinov3_jax.cli.models import add_model_flags, open_model
from dinov3_jax.cli.sizes import parse_size
from dinov3_jax.config import MeshConfig
from dinov3_jax.data.fit import FITS
from dinov3_jax.data.sources import open_images
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.features.extract import DTYPES, TOKENS, check_layers
from dinov3_jax.features.formats import FORMATS
from dinov3_jax.features.job import write_features
from dinov3_jax.features.store import Settings


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "dinov3 features",
        description="Features of images into a folder. The same command again goes on where it "
        "stopped. dinov3_jax.features.store.read_features(DIR) reads them.",
        allow_abbrev=False,
    )
    add_model_flags(parser)
    parser.add_argument(
        "--images", required=True, metavar="FOLDER|GLOB|SHARDS", help="a glob in quotes"
    )
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--tokens", default="cls", choices=TOKENS, help="default %(default)s")
    parser.add_argument(
        "--layers",
        type=_layers,
        metavar="N|I,J,..",
        help="the last N blocks (of a ConvNeXt stages), or these, counted from 0 (a comma after a "
        "single one: 7,); the output if not given",
    )
    parser.add_argument(
        "--size",
        type=parse_size,
        default=256,
        metavar="N|HxW|none",
        help="pixels, multiples of the patch; N is square, none each image's own; default 256",
    )
    parser.add_argument(
        "--fit",
        default="resize",
        choices=FITS,
        help="how images come to that size, or to whole patches; default %(default)s",
    )
    parser.add_argument("--batch", type=int, default=64, metavar="IMAGES", help="default 64")
    parser.add_argument("--format", default="npz", choices=FORMATS, help="default %(default)s")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="default %(default)s")
    parser.add_argument(
        "--part", type=int, default=512, metavar="IMAGES", help="in a part file; default 512"
    )
    options = parser.parse_args(argv)
    source = open_images(options.images)
    model = open_model(options)
    layers = None if options.layers is None else check_layers(model, options.layers)
    size = (options.size, options.size) if isinstance(options.size, int) else options.size
    settings = Settings(
        tokens=options.tokens,
        layers=layers,
        size=size,
        fit=options.fit,
        dtype=options.dtype,
        format=options.format,
        part=options.part,
    )
    # Whole parameters on every device of this machine, the batch spread over them.
    mesh = make_mesh(MeshConfig(-1, 1, 1, 1), jax.local_devices())
    start = time.perf_counter()
    done = write_features(model, source, options.out, settings, mesh=mesh, batch=options.batch)
    seconds = time.perf_counter() - start
    print(
        f"{options.out}: features of {done.images - done.unreadable} images; {done.unreadable} "
        f"could not be read. Now: {done.computed} images in {seconds:.1f} s "
        f"({done.computed / seconds:.1f} images/s)"
    )
    if done.padding > 0.5:
        print(
            f"{done.padding:.0%} of the computing filled up batches, because few images share a "
            "shape; a smaller --batch or one --size is quicker"
        )


def _layers(text: str) -> int | tuple[int, ...]:
    """ "4": a number; "2,5,8" or "7,": indices."""
    if not re.fullmatch(r"\d+(,\d+)*,?", text):
        raise argparse.ArgumentTypeError(f"{text!r} are no layers; wanted 4, 2,5,8 or 7,")
    if "," not in text:
        return int(text)
    return tuple(int(index) for index in text.split(",") if index)
