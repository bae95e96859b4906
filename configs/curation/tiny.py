"""A few thousand images on a laptop: `make curate` runs it where there are no photographs.

Command: dinov3 curate --recipe=configs/curation/tiny.py --pool=SHARDS --model=WORKDIR --out=DIR
Images of 28 px, as configs/fashion_mnist_tiny.py has them: set embed.size for another model. The
thresholds are for that model (docs/curation.md has the numbers): at 0.99 every planted copy was
found and one image more. Another model wants others; look at the pairs in the report.
"""

from configs.curation import base


def get_config():
    config = base.get_config()
    config.name = "tiny"
    config.embed.size = 28
    config.embed.dtype = "float32"
    config.embed.part = 512
    config.dedup.threshold = 0.99
    config.dedup.against_threshold = 0.99
    config.levels = (
        base.level(400),
        base.level(100, resamplings=10, kept=2),
        base.level(25, resamplings=10, kept=2),
    )
    config.sample.budget = 500
    config.retrieve.neighbours = 4
    config.retrieve.large = 1
    config.retrieve.budget = 100
    config.pack.shard_size = 1024
    return config
