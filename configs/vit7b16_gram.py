"""ViT-7B/16, stage 2: Gram anchoring (DINOv3 paper, section 4).

The pretraining goes on, with its weights, moments and step counter, from step 1,000,000 to
1,200,000. The patch similarities of the student are held to those of the teacher of step 200,000,
whose dense features were still good and who sees the crops twice as large.

Command: dinov3 train --config=configs/vit7b16_gram.py:pretrain=PRETRAIN --workdir=DIR \
             --config.data.path=SHARDS
             [vit7b16_gram.py:pretrain=PRETRAIN,chip=v5p | v6e | v5e for the layout of 256 of those]
PRETRAIN is the workdir of vit7b16_pretrain.py, with its checkpoints of steps 200,000 (the Gram
teacher) and 1,000,000.
Hardware: as the pretraining, 256 accelerators with 16 images each. Not yet run here. The paper
publishes linear probes without and with this Gram teacher: ADE20k 50.3 -> 55.7 mIoU, NYU 0.307 ->
0.281 RMSE, ImageNet-1k 88.2 -> 88.0 %; the gain appears within 10,000 steps.
"""

from configs import base, vit7b16_pretrain
from configs.vit7b16_pretrain import EPOCH

START = 1000 * EPOCH  # where the pretraining ends

# Remat and blocks of full remat, on the pretraining's meshes: what fits 256 chips and computes the
# least again.
REMAT = {
    "gpu": ("full", 0),
    "v5p": ("qkv+attention+proj+fc1", 0),
    "v6e": ("attention+proj+fc1", 6),
    "v5e": ("qkv+attention+proj+fc1", 29),
}


def get_config(arg=""):
    given = base.arguments(arg, pretrain="runs/vit7b16_pretrain", chip="gpu")
    pretrain = given["pretrain"]
    config = vit7b16_pretrain.get_config(f"chip={given['chip']}")
    config.name = "vit7b16_gram"
    config.steps = START + 200 * EPOCH
    config.init["from"] = pretrain
    config.init.student, config.init.optimizer = "student", True

    config.gram = gram = base.gram()
    gram.source, gram.step = pretrain, 200 * EPOCH  # the paper's choice
    # 0 until the pretraining's end, then a cosine of one epoch to 2.
    gram.weight = base.schedule(0.0, end=2.0, warmup=START, cosine=EPOCH)
    # The teacher of step 200,000 serves until 1,010,000; three refreshes by the EMA teacher follow.
    gram.refresh_first, gram.refresh_every = START + 10 * EPOCH, 10 * EPOCH
    gram.refresh_count = 3
    config.dino.local_weight = base.schedule(1.0, end=0.5, warmup=START, cosine=EPOCH)

    # Times 8: 2.4e-4. Warm-ups and frozen prototypes lie in the past and are the pretraining's.
    config.optim.lr = base.schedule(3e-5, start=0.0, warmup=100 * EPOCH)
    config.teacher.momentum = base.schedule(0.999)
    config.student.remat, config.student.remat_blocks = base.layout(given["chip"], REMAT)

    config.crops.gram_size = 512
    config.crops.gram_distortions = False
    config.data.canvas = 1024  # ours: Gram crops of 512 pixels want the detail
    return config
