"""The web pool of DINOv3 (LVD-1689M; arXiv 2508.10104, section 3.1), as far as it is published.

Command: dinov3 curate --recipe=configs/curation/lvd.py --pool=SHARDS --pool-kind=shards
         --seeds=imagenet1k=SHARDS --seeds=imagenet22k=SHARDS ... --against=SHARDS ... --model=MODEL
         --out=DIR
Never run here. Published: five levels of 200M, 8M, 800k, 100k and 25k clusters over about 17e9
images, a balanced sample of 1,689M, retrieval as in DINOv2. Public sets enter the training mixture
as they are (docs/shards.md), ImageNet-1k as a tenth of all steps, homogeneous.

Not published, chosen here: 200 million clusters are 2 million, each split in 100, as in the largest
configuration of Vo et al. (arXiv 2405.15613: 100,000 split in 100); resamplings 10 above level 1,
of half a mean cluster; the number of Lloyd iterations, 50, is theirs. Retrieval and thresholds are
DINOv2's (arXiv 2304.07193, appendix A): k = 32 for ImageNet-1k, 4 for other sets above a million
images, else random images of 100,000 clusters, 10,000 of each and a million a set at most. The
thresholds belong to a copy-detection network.
"""

from configs.curation import base


def get_config():
    config = base.get_config()
    config.name = "lvd"
    config.levels = (
        base.level(2_000_000, split=100),
        base.level(8_000_000, resamplings=10, kept=12),
        base.level(800_000, resamplings=10, kept=5),
        base.level(100_000, resamplings=10, kept=4),
        base.level(25_000, resamplings=10, kept=2),
    )
    config.sample.budget = 1_689_000_000
    config.retrieve.neighbours_of = (("imagenet1k", 32),)
    config.retrieve.level = 4
    return config
