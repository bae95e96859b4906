"""A few hundred photographs of groceries on a laptop: `make curate` runs it where they are.

Command: dinov3 curate --recipe=configs/curation/photos.py --pool=SHARDS --model=WORKDIR --out=DIR
For the model of configs/photos_small.py after 600 steps: its features, at 64 pixels, are 128 wide.
They follow colour, so that different crates of apples lie closer together than some photographs
lie to their own copies; whitened they do not (docs/curation.md has the numbers).
"""

from configs.curation import base, tiny


def get_config():
    config = tiny.get_config()
    config.name = "photos"
    config.embed.size = 64
    config.embed.part = 256
    config.dedup.whiten = 128
    config.dedup.threshold = config.dedup.against_threshold = 0.6
    config.levels = (
        base.level(220),
        base.level(70, resamplings=10, kept=2),
        base.level(20, resamplings=10, kept=2),
    )
    config.sample.budget = 200
    config.retrieve.budget = 50
    return config
