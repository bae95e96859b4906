"""Any folder of images, labelled or not: the recipe behind `dinov3 pretrain --data=FOLDER`.

`fit` chooses model, batch, prototypes and length for the amount of images and the machine. As a
recipe of its own: `dinov3 train --config=configs/folder.py:data=FOLDER --workdir=DIR`.
"""

import math

from configs import base

# What one can expect to finish.
_CPU = dict(embed_dim=192, depth=6, num_heads=3, patch=8, crops=(64, 32), group=64)
_ACCELERATOR = dict(embed_dim=384, depth=12, num_heads=6, patch=16, crops=(224, 96), group=64)


def get_config(arg="data="):
    """``arg``: "data=FOLDER"; sized for 10,000 images on a CPU until ``fit`` says otherwise."""
    config = base.get_config()
    config.name = "folder"
    config.data.source = "folder"
    config.data.path = arg.removeprefix("data=")
    return fit(config, images=10_000, platform="cpu", devices=1)


def fit(config, *, images, platform, devices, steps=None):
    """Sizes ``config`` for ``images`` images on ``devices`` devices of ``platform``.

    CPU: a ViT of 6 blocks and width 192 at 64 px, 10 passes, 1,000 to 5,000 steps. Accelerator:
    ViT-S/16 at 224 px, batches of 64 images a device (1,024 at most), 100 passes, 5,000 to 125,000
    steps. ``steps`` overrules the length; every period follows it.
    Prototypes: a tenth of the images, a power of two from 1,024 to 65,536, so that each has
    something to stand for.
    """
    on_cpu = platform == "cpu"
    size = _CPU if on_cpu else _ACCELERATOR
    student = config.student
    student.embed_dim, student.depth = size["embed_dim"], size["depth"]
    student.num_heads, student.patch_size = size["num_heads"], size["patch"]
    student.dtype = "float32" if on_cpu else "bfloat16"
    student.layerscale = 0.1 if on_cpu else 1e-5  # a short run cannot wait for 1e-5 to grow
    student.drop_path = 0.0 if on_cpu else 0.1
    config.crops.global_size, config.crops.local_size = size["crops"]
    config.crops.local_count = 4 if on_cpu else 8
    config.batch.group = max(min(size["group"], 1024 // devices), 2)
    config.batch.images = config.batch.group * devices

    passes, least, most = (10, 1_000, 5_000) if on_cpu else (100, 5_000, 125_000)
    config.steps = steps or min(max(passes * images // config.batch.images, least), most)
    prototypes = 2 ** min(max(round(math.log2(max(images, 1) / 10)), 10), 16)
    for head in (config.dino.head, config.ibot.head):
        head.prototypes = prototypes
        head.hidden, head.bottleneck = (512, 128) if on_cpu else (2048, 256)

    warmup = config.steps // 10
    optim = config.optim
    optim.lr_scaling = "sqrt_1024"
    optim.lr = base.schedule(2e-3, start=0.0, end=1e-6, warmup=warmup)
    optim.weight_decay = base.schedule(0.04, end=0.2)
    optim.layer_decay = 1.0 if on_cpu else 0.9
    optim.freeze_last_layer = config.steps // 100
    momentum = 0.99 if config.batch.images < 512 else 0.992
    config.teacher.momentum = base.schedule(momentum, end=1.0)
    config.teacher.temperature = base.schedule(0.07, start=0.04, warmup=config.steps // 3)

    config.data.augment = "host" if on_cpu else "device"
    config.data.threads = 2 if on_cpu else 16
    config.eval.every = max(config.steps // 10, 1)
    config.eval.bank_size, config.eval.query_size = 4_000, 1_000
    config.checkpoint.every = max(config.steps // 10, 1)
    return config


def class_folders(labels):
    """Whether parent folders look like classes: 2 or more, each with at least 5 images."""
    counts = {}
    for label in labels:
        counts[int(label)] = counts.get(int(label), 0) + 1
    return len(counts) >= 2 and min(counts.values()) >= 5


def label(config, data):
    """Measures k-NN on the class folders of ``data`` itself; the loss never sees a label."""
    config.eval.source = "folder"
    config.eval.bank = config.eval.queries = data
