"""``dinov3 train --config=FILE.py[:ARG] --workdir=DIR [--config.a.b=v ...]``.

A recipe with a section ``students`` (name -> recipe) distils them all in one run. On several hosts
the same command runs on each: docs/hosts.md.
"""

import argparse

from dinov3_jax.cli import hosts
from dinov3_jax.cli.flags import parse_recipe
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train.loop import train, train_students


def run(argv: list[str]) -> None:
    usage = "dinov3 train --config=FILE.py[:ARG] --workdir=DIR [--config.KEY=VALUE ...]"
    parser = argparse.ArgumentParser(usage=usage, add_help=False, allow_abbrev=False)
    hosts.add_flags(parser)
    options, rest = parser.parse_known_args(argv)
    if {"--help", "-h"} & set(rest):
        parser.print_help()  # and then that of the recipe's flags
    recipe, workdir = parse_recipe(rest)
    hosts.join(options)
    students = recipe.to_dict().get("students", {})
    if students:
        configs = {k: from_config_dict(v, path=f"students.{k}") for k, v in students.items()}
        train_students(configs, workdir)
    else:
        train(from_config_dict(recipe), workdir)
