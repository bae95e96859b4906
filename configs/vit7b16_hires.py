"""ViT-7B/16, stage 3: adaptation to high resolution (DINOv3 paper, section 5.1).

Starts from the EMA teacher of the Gram stage, at step 0 and with fresh moments; the same teacher is
the Gram teacher, for good. Every step has one of five sizes of crops.

Command: dinov3 train --config=configs/vit7b16_hires.py:gram=GRAM --workdir=DIR \
             --config.data.path=SHARDS
             [vit7b16_hires.py:gram=GRAM,chip=v5p for the layout of 256 of those]
GRAM is the workdir of vit7b16_gram.py.
Hardware: 256 accelerators, 8 images each, of which a v5e or v6e has too little memory: by the
compiler's upper count the largest crops take 37 GiB beside the state even under full remat. The
reference's configuration has 30,000 steps, the paper 10,000, at which the learning rate reaches its
end: --config.steps=10000 stops there. Not yet run here. The paper publishes, for the 7B after this
stage, linear probes of 88.4 % on ImageNet-1k, 55.9 mIoU on ADE20k and 0.309 RMSE on NYU.
"""

from configs import base, vit7b16_gram
from configs.vit7b16_pretrain import EPOCH

# Remat and blocks of full remat, as in vit7b16_gram.py.
REMAT = {"gpu": ("full", 0), "v5p": ("qkv+attention+proj+fc1", 24)}


def get_config(arg=""):
    given = base.arguments(arg, gram="runs/vit7b16_gram", chip="gpu")
    source, remat = given["gram"], base.layout(given["chip"], REMAT)
    config = vit7b16_gram.get_config(f"chip={given['chip']}")
    config.name = "vit7b16_hires"
    config.steps = 30 * EPOCH
    config.batch.images, config.batch.group = 2048, 8
    config.student.remat, config.student.remat_blocks = remat
    config.koleo.group = 16  # neighbours are searched in two groups together

    config.init["from"] = source
    config.init.student, config.init.optimizer = "teacher", False
    config.gram = gram = base.gram()  # without refreshes
    gram.source = source
    gram.weight = base.schedule(1.5)  # as in the configuration; the paper writes 2
    config.dino.local_weight = base.schedule(0.5)

    # Rises as a cosine; times 4 sqrt(2048 / 1024) = 5.66: 7.07e-5 from step 10,000 on.
    config.optim.lr = base.schedule(0.0, end=1.25e-5, cosine=10 * EPOCH)
    config.optim.freeze_last_layer = 0
    config.teacher.temperature = base.schedule(0.07)

    crops = config.crops
    crops.mixture = (
        (512, 112, 768, 0.3),
        (768, 112, 1152, 0.3),
        # The reference cuts 168 pixels, and its patch embedding drops the last 8: the same patches.
        (768, 160, 1152, 0.3),
        (768, 224, 1152, 0.05),
        (768, 336, 1152, 0.05),
    )
    crops.global_size, crops.local_size, crops.gram_size = 512, 112, 768  # evaluations: 512
    # The Gram teacher sees the student's colours and blur again; stage 2 alone spares it them.
    crops.gram_distortions = True
    config.data.canvas = 1536  # ours: the largest crops are of 1152 pixels
    config.checkpoint.every = 250
    config.eval.every = 1000
    return config
