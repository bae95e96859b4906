"""ViT-S/16 on ImageNet-1k, the recipe of vitl16_im1k.py at a smaller size.

Command: dinov3 train --config=configs/vits16_im1k.py --workdir=DIR --config.data.path=SHARDS
Hardware: 8 accelerators with 32 GB (global batch 1024). Not yet run to its end here, so it states
no expected score.
"""

from configs import vitl16_im1k


def get_config():
    config = vitl16_im1k.get_config()
    config.name = "vits16_im1k"
    config.batch.images = 1024
    config.student.arch = "vit_small"
    config.student.drop_path = 0.1
    return config
