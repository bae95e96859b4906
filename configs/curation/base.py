"""Every key of a curation recipe, once, with its unit and meaning.

`dinov3 curate --recipe=configs/curation/FILE.py` runs one. A recipe calls ``get_config()`` and
changes what differs. Distances and cosines are between CLS features of length 1.
"""

import ml_collections

from configs.base import optional


def level(clusters, *, split=1, resamplings=0, kept=2):
    """One level of the hierarchy.

    clusters     k: of images at the lowest level, of the centroids of the level below above it
    split        clusters into which each of these is split afterwards; 1: none
    resamplings  further clusterings, each of the ``kept`` inputs nearest to every centroid
    kept         about half the mean size of a cluster
    """
    return dict(clusters=clusters, split=split, resamplings=resamplings, kept=kept)


def get_config():
    config = ml_collections.ConfigDict()
    config.name = "base"
    config.seed = 0  # every random draw derives from it

    config.embed = embed = ml_collections.ConfigDict()
    embed.size = 256  # pixels, a side; a multiple of the model's patch
    embed.fit = "resize"  # | "crop" | "pad": how images come to that size
    embed.dtype = "float16"  # | "float32": of the features on disk
    embed.batch = 64  # images a forward
    embed.part = 8192  # images a part file: what a killed run may lose

    # DINOv2's numbers, for features of a copy-detection network. Those of another model lie closer
    # together; whitened they spread. Look at the pairs in the report first.
    config.dedup = dedup = ml_collections.ConfigDict()
    dedup.whiten = optional(int)  # directions in which the pool's features vary most; None: as are
    dedup.threshold = optional(float, 0.6)  # cosine above which two pool images are the same; None
    dedup.neighbours = 64  # of each image that are looked at
    # Lists of an inverted file that a search in the pool looks at (by Faiss on one host, see
    # docs/curation.md); None: exact, on the mesh. Evaluation sets are always searched exactly.
    dedup.probes = optional(int)
    dedup.against_threshold = 0.45  # cosine above which an evaluation set knows the image

    config.levels = (level(1000), level(100, resamplings=10, kept=5))  # lowest first
    config.iterations = 50  # of each k-means at most

    config.sample = sample = ml_collections.ConfigDict()
    sample.budget = 10_000  # images spread evenly over the tree, exactly so many

    # For every seed set alike. A large one brings the nearest neighbours of each of its images; a
    # small one random images of each cluster that holds some of its images.
    config.retrieve = retrieve = ml_collections.ConfigDict()
    retrieve.large = 1_000_000  # images from which a seed set counts as large
    retrieve.neighbours = 4  # of each image of a large set
    retrieve.neighbours_of = ()  # ((seed set, neighbours), ...): other numbers for some sets
    retrieve.probes = optional(int)  # as dedup.probes, for large sets
    retrieve.level = 1  # whose clusters small sets ask, from 1
    retrieve.more_than = 3  # seed images in a cluster that is asked
    retrieve.each = 10_000  # images of a cluster at most
    retrieve.budget = 1_000_000  # images of a seed set at most

    config.pack = optional(ml_collections.ConfigDict)  # None: a manifest, no shards
    config.pack = pack = ml_collections.ConfigDict()
    pack.shard_size = 8192  # images
    pack.longest = optional(int)  # pixels to which larger images are shrunk; None: as they are
    pack.quality = optional(int)  # 1..100: all images become JPEGs of it; None: as they are
    return config
