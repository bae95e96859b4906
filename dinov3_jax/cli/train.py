"""``dinov3 train --config=FILE.py[:ARG] --workdir=DIR [--config.a.b=v ...]``.

A recipe with a section ``students`` (name -> recipe) distils them all in one run.
"""

from dinov3_jax.cli.flags import parse_recipe
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train.loop import train, train_students


def run(argv: list[str]) -> None:
    recipe, workdir = parse_recipe(argv)
    students = recipe.to_dict().get("students", {})
    if students:
        configs = {k: from_config_dict(v, path=f"students.{k}") for k, v in students.items()}
        train_students(configs, workdir)
    else:
        train(from_config_dict(recipe), workdir)
