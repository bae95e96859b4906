"""ViT-L/16 on ImageNet-1k: the public recipe of the DINOv3 system ("lin834").

Command: dinov3 train --config=configs/vitl16_im1k.py --workdir=DIR --config.data.path=SHARDS
             [vitl16_im1k.py:chip=v5e | v6e for the layout of 8 of those]
The reference reports 82.0 k-NN and 83.5 linear after about 14 hours on 32 H100 (paper repository
README); not yet run to its end here. Schedules of family v1; no storage tokens, no RoPE
augmentation, LayerNorm epsilon 1e-6.
"""

from configs import base

EPOCH = 1250  # steps

# (fsdp, fsdp_minor), remat, blocks of full remat, micro-batches: of 512 images on 8 TPUs.
LAYOUTS = {
    "gpu": ((-1, 1), "none", 0, 1),
    "v6e": ((4, 2), "qkv+attention+proj+fc1", 0, 4),
    "v5e": ((4, 2), "qkv+attention+proj", 6, 4),
}


def get_config(arg=""):
    layout = base.layout(base.arguments(arg, chip="gpu")["chip"], LAYOUTS)
    config = base.get_config()
    config.name = "vitl16_im1k"
    config.steps = 100 * EPOCH
    config.batch.images, config.batch.group = 2048, 64

    student = config.student
    student.arch = "vit_large"
    mesh, student.remat, student.remat_blocks, config.batch.accumulate = layout
    config.mesh.fsdp, config.mesh.fsdp_minor = mesh
    student.drop_path = 0.3
    student.norm_eps = 1e-6
    student.storage_tokens = 0
    student.mask_k_bias = False
    student.rope_rescale = None
    # The reference rotates q and k in bfloat16 in every training run.
    student.rope_dtype = "bfloat16"

    v1 = dict(family="v1")
    optim = config.optim
    optim.lr = base.schedule(1e-3, start=0.0, end=1e-6, warmup=10 * EPOCH, **v1)
    optim.weight_decay = base.schedule(0.04, end=0.4, **v1)
    optim.layer_decay = 0.9
    optim.clip = 3.0
    optim.freeze_last_layer = EPOCH
    config.teacher.momentum = base.schedule(0.992, end=1.0, **v1)
    config.teacher.temperature = base.schedule(0.07, start=0.04, warmup=30 * EPOCH, **v1)

    config.data.source = "shards"
    config.checkpoint.every = 3750
    config.eval.every = 10 * EPOCH
    return config
