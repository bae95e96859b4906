"""ConvNeXt-S distilled from a frozen ViT-L/16; convnext_tiny_distill.py has the whole recipe.

Command: dinov3 train --config=configs/convnext_small_distill.py:teacher=TEACHER --workdir=DIR \
             --config.data.path=SHARDS
TEACHER, hardware and what is known of the result: as there.
"""

from configs.convnext_tiny_distill import recipe


def get_config(arg="teacher=runs/vitl16_im1k"):
    return recipe("convnext_small", arg, lr=2e-4, weight_decay=0.04)
