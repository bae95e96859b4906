"""``--config=tests/distributed/tiny_recipe.py:FOLDER``: a recipe for eight devices in all."""

from tests.train.runs import tiny_recipe

EIGHT = {"batch.images": 16, "batch.group": 2, "mesh.fsdp": -1, "data.buffer": 2}


def get_config(folder):
    return tiny_recipe(folder, **EIGHT)
