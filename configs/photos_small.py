"""A few thousand photographs on a CPU: stage 1 on small crops.

Command: dinov3 train --config=configs/photos_small.py:data=FOLDER --workdir=DIR
FOLDER holds clothing/ and grocery/, each with train, val and test folders of class folders. The two
train splits are the data, without labels; k-NN of clothing (bank: train, queries: val and test) is
measured along the way. Any other folder: --config.data.path=IMAGES --config.eval.source=none.
What came out is in docs/results.md.
"""

from configs import base


def get_config(arg="data=../shared/photos"):
    folder = arg.removeprefix("data=")
    config = base.get_config()
    config.name = "photos_small"
    config.steps = 6000
    config.batch.images = config.batch.group = 32

    student = config.student
    student.patch_size = 8
    student.embed_dim, student.depth, student.num_heads, student.ffn_ratio = 128, 4, 4, 2.0
    student.storage_tokens = 0
    student.layerscale = None
    student.rope_rescale = None
    student.dtype = "float32"

    for head in (config.dino.head, config.ibot.head):
        head.prototypes, head.hidden, head.bottleneck = 512, 128, 64
    # A short run has no time to grow long prototype vectors: with logits this small, a lower
    # temperature is what makes the targets say something.
    config.teacher.temperature = base.schedule(0.015)
    config.teacher.momentum = base.schedule(0.99, end=1.0)

    optim = config.optim
    optim.lr = base.schedule(2e-3, start=0.0, end=1e-6, warmup=200)
    optim.lr_scaling = "none"
    optim.weight_decay = base.schedule(0.04)
    optim.beta2 = 0.99
    optim.layer_decay = optim.patch_embed_lr = 1.0
    optim.freeze_last_layer = 0

    crops = config.crops
    crops.global_size, crops.local_size, crops.local_count = 48, 24, 4
    # Milder than usual, colours nearly kept: few images, and colour tells groceries apart.
    crops.global_scale, crops.local_scale = (0.6, 1.0), (0.2, 0.6)
    crops.saturation, crops.hue, crops.gray_probability = 0.1, 0.02, 0.05
    crops.solarize_probability = 0.1
    crops.blur_sigma = (0.1, 1.0)

    config.data.path = f"{folder}/clothing/train,{folder}/grocery/train"
    config.data.augment = "host"
    config.data.threads = 1
    config.eval.every = 500
    config.eval.source = "folder"
    config.eval.bank = f"{folder}/clothing/train"
    config.eval.queries = f"{folder}/clothing/val,{folder}/clothing/test"
    config.checkpoint.every = 500
    return config
