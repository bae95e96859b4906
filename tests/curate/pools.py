"""A pool of flat colours with a long tail, near-duplicates, and a recipe that it is enough for."""

import dataclasses
import functools

import numpy as np
from PIL import Image

from configs.curation import base
from dinov3_jax.curate.recipe import CurationConfig
from dinov3_jax.recipe import from_config_dict
from tests.features.models import vit

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40]])
SIZES = (24, 10, 6, 4)  # images of a colour


@functools.cache
def model():
    return vit()


def write_colours(folder, sizes=SIZES, *, copies=3, seed=0):
    """PNGs of 8 x 8 pixels in folders c0, c1 ..., one a colour; the first ``copies`` of c0 twice,
    as c0/copy0.png and so on."""
    rng = np.random.default_rng(seed)
    for c, count in enumerate(sizes):
        place = folder / f"c{c}"
        place.mkdir(parents=True)
        for i in range(count):
            pixels = (COLOURS[c] + rng.integers(-40, 40, (8, 8, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{i:02d}.png")
            if c == 0 and i < copies:
                Image.fromarray(pixels).save(place / f"copy{i}.png")


def recipe(**changes) -> CurationConfig:
    """Levels of 12 and 4 clusters, a budget of 16; ``changes`` replace whole keys."""
    config = base.get_config()
    config.name = "colours"
    config.embed.size = 8
    config.embed.batch, config.embed.part = 8, 16
    config.dedup.threshold = config.dedup.against_threshold = 0.999999
    config.levels = (base.level(12), base.level(4, resamplings=1))
    config.sample.budget = 16
    config.retrieve.large = 3
    config.retrieve.neighbours = 2
    config.pack.shard_size = 16
    return dataclasses.replace(from_config_dict(config, CurationConfig), **changes)
