"""ViT-L/16 distilled from the frozen 7B (DINOv3 paper, section 5.2).

The losses of the pretraining, with a teacher that does not learn and a student that sees its crops
unmasked. These are the values of the reference's one published distillation of ViTs, the end of a
longer one: there it starts from an earlier student (``init`` names it), here from random parameters
unless one is set. The paper distils for 1,000,000 steps, then 250,000 under a cosine.

Command: dinov3 train --config=configs/vitl16_distill.py:teacher=TEACHER --workdir=DIR \
             --config.data.path=SHARDS
TEACHER is the workdir of vit7b16_hires.py, or of an earlier stage of the 7B.
Hardware: the frozen 7B in bfloat16 and a ViT-L; the batch divides over up to 120 accelerators. Not
yet run here. The paper publishes, for the ViT-L after all stages, 90.2 % on ImageNet-ReaL, 54.9
mIoU on ADE20k and 0.352 RMSE on NYU (linear probes).
"""

from configs import base, vit7b16_pretrain

EPOCH = 1250  # steps


def get_config(arg="teacher=runs/vit7b16_hires"):
    config = base.get_config()
    config.name = "vitl16_distill"
    config.steps = 20 * EPOCH
    # The reference shares 1920 images among the accelerators of each student; 16 a piece for its L.
    config.batch.images, config.batch.group = 1920, 16

    config.distill = base.distill(vit7b16_pretrain.get_config())
    config.distill.source = arg.removeprefix("teacher=")

    student = config.student
    student.arch = "vit_large"
    student.rope_dtype = "bfloat16"  # as in the reference's training runs
    student.remat = "full"

    config.dino.head.prototypes = 262_144
    config.dino.head.hidden, config.dino.head.bottleneck = 8192, 512
    config.ibot.head.prototypes = 98_304
    config.ibot.head.hidden, config.ibot.head.bottleneck = 4096, 384

    optim = config.optim
    # Rises as a cosine; times 4 sqrt(1920 / 1024) = 5.48: 2.74e-4 from step 12,500 on. The
    # reference scales by whole images an accelerator: 296 of them have 6 each, which gives 2.63e-4.
    optim.lr = base.schedule(0.0, end=5e-5, cosine=10 * EPOCH)
    optim.weight_decay = base.schedule(0.04)
    optim.layer_decay = 0.99
    optim.freeze_last_layer = 0
    config.teacher.momentum = base.schedule(0.994, end=1.0)  # of the student's EMA
    config.teacher.temperature = base.schedule(0.07)

    # The reference also sets Gram crops of 256 pixels, which nothing reads there.
    config.crops.global_size, config.crops.local_size = 256, 112
    config.crops.horizontal_flip = False
    config.data.source = "shards"
    config.checkpoint.every = 3 * EPOCH
    return config
