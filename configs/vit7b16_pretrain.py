"""ViT-7B/16, stage 1: the pretraining of the DINOv3 paper (section 3.2, table 2).

Command: dinov3 train --config=configs/vit7b16_pretrain.py --workdir=DIR \
             --config.data.path=SHARDS
             [vit7b16_pretrain.py:chip=v5p | v6e | v5e for the layout of 256 of those]
Hardware: 256 accelerators, 16 images each; docs/scale.md has what the compiler says of it.
Constant schedules after 100k steps of warm-up; the paper trains one million steps. The reference
computes the blocks' matmuls in fp8, this recipe in bfloat16; --config.student.fp8=True does as the
reference, for GPUs with float8 units.
"""

from configs import base

EPOCH = 1000  # steps


# (replica, fsdp, fsdp_minor), remat, blocks of full remat: what fits 256 chips and computes the
# least again.
LAYOUTS = {
    "gpu": ((1, -1, 1), "qkv+attention+proj+fc1", 0),
    "v5p": ((4, 8, 8), "qkv+attention+proj+fc1", 0),
    "v6e": ((1, 16, 16), "attention+proj+fc1", 0),
    "v5e": ((1, 16, 16), "qkv+attention+proj+fc1", 28),
}


def get_config(arg=""):
    chip = base.arguments(arg, chip="gpu")["chip"]
    config = base.get_config()
    config.name = "vit7b16_pretrain"
    config.steps = 1000 * EPOCH
    config.batch.images, config.batch.group = 4096, 16

    student = config.student
    student.arch = "vit_7b"
    student.drop_path = 0.4
    student.untie_global_and_local_cls_norm = True
    student.rope_dtype = "bfloat16"  # as in the reference's training runs
    mesh, student.remat, student.remat_blocks = base.layout(chip, LAYOUTS)
    config.mesh.replica, config.mesh.fsdp, config.mesh.fsdp_minor = mesh

    config.dino.head.prototypes = 262_144
    config.dino.head.hidden, config.dino.head.bottleneck = 8192, 512
    config.ibot.head.prototypes = 98_304
    config.ibot.head.hidden, config.ibot.head.bottleneck = 4096, 384

    optim = config.optim
    # Times 4 sqrt(4096 / 1024) = 8: peak 4e-4.
    optim.lr = base.schedule(5e-5, start=0.0, warmup=100 * EPOCH)
    optim.weight_decay = base.schedule(0.04)
    optim.beta2 = 0.99
    optim.clip = 30.0
    optim.layer_decay = 0.98
    optim.freeze_last_layer = 5 * EPOCH
    config.teacher.momentum = base.schedule(0.994)
    config.teacher.temperature = base.schedule(0.07, start=0.04, warmup=100 * EPOCH)

    config.crops.global_size, config.crops.local_size = 256, 112
    config.crops.horizontal_flip = False
    config.data.source = "shards"
    config.checkpoint.every, config.checkpoint.keep_every = 1000, 50_000
    config.eval.every = 10_000
    return config
