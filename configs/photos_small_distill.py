"""Distillation of ``photos_small`` (or a later stage of it) into a student of another kind.

Paper: section 5.2. Command, after ``photos_small``:
    dinov3 train --config=configs/photos_small_distill.py:data=FOLDER,teacher=DIR,student=vit \
        --workdir=STUDENT
``student=vit``: half the width at the same patch size. ``student=convnext``: a small ConvNeXt; its
stride of 32 pixels gives 2 x 2 patch tokens of a 64-pixel crop; the teacher's 8 x 8 are resized
to them. Hardware: a CPU, on which the ConvNeXt makes 12 images/s. docs/results.md has the outcome.
"""

from configs import base, photos_small


def get_config(arg=""):
    given = base.arguments(arg, data="../shared/photos", teacher="runs/photos_small", student="vit")
    config = photos_small.get_config(f"data={given['data']}")
    config.name = "photos_small_distill"
    config.steps = 1000
    config.distill = base.distill(config)
    config.distill.source = given["teacher"]

    student = config.student
    if given["student"] == "vit":
        student.embed_dim, student.num_heads = 64, 2
    elif given["student"] == "convnext":
        student.arch = "convnext_tiny"
        student.embed_dim = student.depth = student.num_heads = student.ffn_ratio = None
        student.stage_depths, student.stage_dims = (1, 1, 2, 1), (24, 48, 96, 128)
        config.crops.global_size, config.crops.local_size = 64, 32
    else:
        raise ValueError(f"student={given['student']}; this recipe has vit and convnext")

    config.optim.lr = base.schedule(2e-3, start=0.0, end=1e-6, warmup=100)
    config.teacher.momentum = base.schedule(0.99, end=1.0)
    config.eval.every = config.checkpoint.every = 500
    return config
