"""High-resolution adaptation of ``photos_small_gram``: crops of mixed, larger sizes.

Paper: section 5.1. Command, after ``photos_small_gram``:
    dinov3 train --config=configs/photos_small_hires.py:data=FOLDER,from=GRAM --workdir=HIRES
Hardware: a CPU. Student and teacher both start from the teacher of GRAM, which is the Gram teacher
too and stays as it is. Evaluated at 64 pixels. docs/results.md has what came out.
"""

from configs import base, photos_small_gram


def get_config(arg=""):
    given = base.arguments(arg, data="../shared/photos", **{"from": "runs/photos_small_gram"})
    config = photos_small_gram.get_config(f"data={given['data']},from={given['from']}")
    config.name = "photos_small_hires"
    config.steps = 300
    config.init.student = "teacher"

    config.optim.lr = base.schedule(1e-4, start=0.0, end=1e-6, warmup=30)
    config.gram.weight = base.schedule(1.5)
    config.gram.refresh_every = None

    crops = config.crops
    crops.global_size, crops.local_size, crops.gram_size = 64, 32, 96
    # global, local, Gram, share: the 7B's mixture at an eighth of its sizes
    crops.mixture = ((48, 24, 72, 0.3), (64, 24, 96, 0.35), (64, 32, 96, 0.35))
    config.eval.every = config.checkpoint.every = 150
    return config
