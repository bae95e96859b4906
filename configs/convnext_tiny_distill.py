"""ConvNeXt-T distilled from a frozen ViT-L/16 (DINOv3 paper, section 5.2); S, B and L share it.

Student crops are twice as large as the teacher's, 512 pixels for 256, so that patches of stride 32
and of 16 pixels make the same 16 x 16 grid.

Command: dinov3 train --config=configs/convnext_tiny_distill.py:teacher=TEACHER --workdir=DIR \
             --config.data.path=SHARDS
TEACHER is the workdir of vitl16_im1k.py.
Hardware: 128 accelerators (16 nodes, the reference's note), 32 images each. Not yet run here, and
no score is published for this teacher: the published ConvNeXts are students of the 7B.
"""

from configs import base, vitl16_im1k

EPOCH = 1250  # steps


def recipe(arch, arg, *, lr, weight_decay):
    """``lr`` before scaling; ``weight_decay`` at the start."""
    config = base.get_config()
    config.name = f"{arch}_distill"
    config.steps = 500 * EPOCH
    config.batch.images, config.batch.group = 4096, 32

    config.distill = base.distill(vitl16_im1k.get_config())
    config.distill.source = arg.removeprefix("teacher=")
    config.distill.resolution_scale = 2.0
    config.student.arch = arch

    optim = config.optim
    # Peak and end times 4 sqrt(4096 / 1024) = 8.
    optim.lr = base.schedule(lr, start=1e-6, end=1e-6, warmup=80 * EPOCH)
    # Both rise along straight lines, all the way.
    optim.weight_decay = base.schedule(0.2, start=weight_decay, warmup=500 * EPOCH)
    config.teacher.momentum = base.schedule(1.0, start=0.994, warmup=500 * EPOCH)
    config.teacher.temperature = base.schedule(0.07, start=0.04, warmup=120 * EPOCH)
    optim.layer_decay = 1.0  # a ConvNeXt has none in any case
    optim.freeze_last_layer = EPOCH

    config.crops.global_size, config.crops.local_size = 512, 224
    config.data.source = "shards"
    config.data.canvas = 1024  # ours: crops of 512 pixels want the detail
    config.checkpoint.every = 3 * EPOCH
    config.eval.every = 10 * EPOCH
    return config


def get_config(arg="teacher=runs/vitl16_im1k"):
    return recipe("convnext_tiny", arg, lr=2e-4, weight_decay=0.04)
