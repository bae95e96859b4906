"""Gram anchoring of ``photos_small``: its patch similarities are held while training goes on.

Paper: section 4. Command, after ``photos_small``:
    dinov3 train --config=configs/photos_small_gram.py:data=FOLDER,from=DIR --workdir=GRAM
Hardware: a CPU. Student and teacher go on from DIR; the teacher of DIR at the end of its run is the
Gram teacher, and sees crops of one and a half times the size. An earlier one:
``--config.gram.step=N``, which wants ``--config.checkpoint.keep_every`` in the first run.
docs/results.md has what came out, docs/dense.md how to read it.
"""

from configs import base, photos_small


def get_config(arg=""):
    given = base.arguments(arg, data="../shared/photos", **{"from": "runs/photos_small"})
    config = photos_small.get_config(f"data={given['data']}")
    config.name = "photos_small_gram"
    config.steps = 500
    config.init["from"] = given["from"]
    config.init.student = "student"

    config.optim.lr = base.schedule(3e-4, start=0.0, end=1e-6, warmup=50)
    config.teacher.momentum = base.schedule(0.99)

    config.gram = gram = base.gram()
    gram.weight = base.schedule(2.0)
    gram.source = given["from"]
    gram.refresh_every = 250
    config.crops.gram_size = 72
    config.crops.gram_distortions = False

    config.eval.every = config.checkpoint.every = 250
    return config
