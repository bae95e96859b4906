"""What curating a pool of images takes: storage, core-hours and chip-hours of every stage.

    python -m benchmarks.scale_data --pack=RATE --read=RATE [--core-hour=PRICE --chip-hour=PRICE]

Arithmetic alone, nothing is run: work (images, FLOP, bytes) over a rate. The rates of a core are
what ``benchmarks.shards`` measures; those of a chip are its data sheet's peak times
``--utilisation``, an assumption, over what float32 products cost. Prices are the reader's; without
them no cost is printed.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.report import table
from configs.base import get_config
from configs.curation import lvd
from dinov3_jax.curate.recipe import CurationConfig, levels
from dinov3_jax.curation.hierarchy import Level
from dinov3_jax.curation.kmeans import CANDIDATES
from dinov3_jax.distributed.chips import CHIPS, Chip
from dinov3_jax.models import presets
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train.flops import forward_flops

IMAGES = 17e9  # DINOv3's (arXiv 2508.10104, section 3.1); all else is configs/curation/lvd.py's
SEEDS = 15.5e6  # images of the seed sets of that recipe's command: 1.28 and 14.2 million
FILLING = 1.45  # points computed over points there are, where sizes are filled up to powers of two


class Float32(NamedTuple):
    """Time of float32 products over that of bfloat16 ones."""

    forward: float  # of the model, at the default precision
    curation: float  # of distances and cosines, at "highest"


# TPUs: one bfloat16 pass and six. GPUs: TF32, and float32 without tensor cores, of the data sheets
# that ``chips`` names: 156 and 19.5 of 312 TFLOP/s, 494 and 67 of 989.
FLOAT32 = {
    **dict.fromkeys(("v4", "v5e", "v5p", "v6e"), Float32(1, 6)),
    **dict.fromkeys(("a100", "a100-40gb"), Float32(2, 16)),
    **dict.fromkeys(("h100", "h200"), Float32(2, 14.8)),
}


class Rates(NamedTuple):
    """Of one core, in images a CPU-second, and the share of a chip's peak that is reached."""

    pack: float
    read: float
    utilisation: float


class Stage(NamedTuple):
    name: str
    core_hours: float
    chip_hours: float
    written: float  # bytes


def stages(
    *,
    images: float,
    kept: float,
    seeds: float,
    dedup_parts: float,
    levels: Sequence[Level],
    iterations: int,
    embedding_flop: float,
    width: int,
    number_bytes: int,
    image_bytes: float,
    rates: Rates,
    chip: Chip,
    float32: Float32,
) -> list[Stage]:
    """One row a stage of curating ``images`` down to ``kept``.

    seeds: images of large seed sets. dedup_parts: equal parts of the pool within which each image
    is compared with all others; 1: all of it, as ``dinov3 curate`` does. embedding_flop: of one
    image's forward pass. width: D of embeddings, number_bytes: of a number of theirs on disk.
    image_bytes: of a stored image. Duplicates are not taken off what comes after them.
    """

    def chips(flop, slowdown=float32.curation):
        return flop * slowdown / (chip.flops * rates.utilisation) / 3600

    def cores(count, rate):
        return count / rate / 3600

    found = [
        Stage("pack the pool", cores(images, rates.pack), 0, images * image_bytes),
        Stage(
            "embed the pool",
            cores(images, rates.read),
            chips(images * embedding_flop, float32.forward),
            images * width * number_bytes,
        ),
        Stage(  # groups.npy and seen.npy
            "near-duplicates", 0, chips(2 * images**2 * width / dedup_parts), images * (8 + 1)
        ),
    ]
    inputs = images
    for number, level in enumerate(levels, 1):
        flop = level_flop(inputs, level, width=width, iterations=iterations)
        assignments = inputs * 4
        inputs = level.clusters * level.split
        written = inputs * width * 4 + assignments
        found.append(Stage(f"level {number}: {inputs:,}", 0, chips(flop), written))
    found.append(Stage("retrieval", 0, chips(2 * seeds * images * width), 0))
    found.append(Stage("pack what is kept", cores(kept, rates.pack), 0, kept * image_bytes))
    return found


def level_flop(inputs: float, level: Level, *, width: int, iterations: int) -> float:
    """FLOP of ``hierarchy`` for one level of so many inputs: every iteration is taken.

    k-means: 2 n k D an iteration, one more for the last assignment, ``CANDIDATES`` + 1 for the
    start. A resampling: k-means of ``kept`` k points and one assignment of all. A split in f:
    2 n f D for scores and as much for sums an iteration, one more for the last assignment,
    ``CANDIDATES`` for the start, all of it with ``FILLING``.
    """
    passes = iterations + 1 + CANDIDATES + 1
    k, each = level.clusters, 2 * width
    flop = each * inputs * k * passes
    flop += level.resamplings * each * k * (min(level.kept * k, inputs) * passes + inputs)
    if level.split > 1:
        flop += FILLING * each * inputs * level.split * (2 * iterations + 1 + CANDIDATES)
    return flop


def rows(
    found: list[Stage], *, core_hour: float | None, chip_hour: float | None
) -> list[list[str]]:
    """Cells of the printed table, a sum in the last row."""
    total = Stage("all", *(sum(column) for column in zip(*(stage[1:] for stage in found))))
    cells = []
    for stage in [*found, total]:
        row = [stage.name, f"{stage.core_hours:,.0f}", f"{stage.chip_hours:,.0f}"]
        row.append(f"{stage.written / 1e12:,.2f}")
        if core_hour is not None and chip_hour is not None:
            row.append(f"{stage.core_hours * core_hour + stage.chip_hours * chip_hour:,.0f}")
        cells.append(row)
    return cells


def embedding(arch: str, size: int) -> tuple[float, int]:
    """(FLOP of the forward pass of an image of ``size`` pixels a side, width D) of a preset."""
    config = get_config()
    config.student.arch = arch
    backbone = presets.complete(from_config_dict(config).student)
    return sum(forward_flops(backbone, size, size)), presets.PRESETS[arch]["embed_dim"]


def main():
    recipe = from_config_dict(lvd.get_config(), CurationConfig)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pack", type=float, required=True, help="images/CPU-s of benchmarks.shards"
    )
    parser.add_argument("--read", type=float, required=True, help="images/CPU-s read and decoded")
    parser.add_argument("--chip", default="v5p", choices=CHIPS)
    parser.add_argument("--utilisation", type=float, default=0.4, help="of its peak: an assumption")
    parser.add_argument("--images", type=float, default=IMAGES, help="of the pool")
    parser.add_argument(
        "--kept", type=float, default=recipe.sample.budget, help="images after curation"
    )
    parser.add_argument("--seeds", type=float, default=SEEDS, help="images of large seed sets")
    parser.add_argument(
        "--dedup-parts",
        type=float,
        default=1,
        help="equal parts within which duplicates are sought; 1, the default, is what curate does",
    )
    parser.add_argument("--image-bytes", type=float, default=75.5e3, help="of a stored image")
    parser.add_argument("--arch", default="vit_large", choices=presets.PRESETS, help="embeds")
    parser.add_argument(
        "--size", type=int, default=recipe.embed.size, help="pixels a side that it sees"
    )
    parser.add_argument(
        "--iterations", type=int, default=recipe.iterations, help="of every k-means"
    )
    parser.add_argument("--core-hour", type=float, help="your price of one")
    parser.add_argument("--chip-hour", type=float, help="your price of one")
    options = parser.parse_args()
    flop, width = embedding(options.arch, options.size)
    float32 = FLOAT32[options.chip]
    found = stages(
        images=options.images,
        kept=options.kept,
        seeds=options.seeds,
        dedup_parts=options.dedup_parts,
        levels=levels(recipe),
        iterations=options.iterations,
        embedding_flop=flop,
        width=width,
        number_bytes=np.dtype(recipe.embed.dtype).itemsize,
        image_bytes=options.image_bytes,
        rates=Rates(options.pack, options.read, options.utilisation),
        chip=CHIPS[options.chip],
        float32=float32,
    )
    print(
        f"{options.images:.3g} images to {options.kept:.3g}; {options.arch} at {options.size} px: "
        f"{flop / 1e9:.0f} GFLOP an image, D = {width}; {options.iterations} iterations; "
        f"{options.seeds:.3g} seed images; duplicates in {options.dedup_parts:,.0f} part(s); "
        f"{options.chip} at {options.utilisation:.0%} of its peak, float32 products "
        f"{float32.forward:g} (forward) and {float32.curation:g} times as long as bfloat16 ones; "
        f"{options.pack:.0f} images packed and {options.read:.0f} read and decoded a core and "
        "second\n"
    )
    priced = options.core_hour is not None and options.chip_hour is not None
    columns = ["", "core-hours", "chip-hours", "TB written", *(["cost"] if priced else [])]
    print(table(columns, rows(found, core_hour=options.core_hour, chip_hour=options.chip_hour)))


if __name__ == "__main__":
    main()
