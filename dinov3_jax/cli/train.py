"""``dinov3 train --config=FILE.py[:ARG] --workdir=DIR [--config.a.b=v ...]``."""

from dinov3_jax.cli.flags import parse_recipe
from dinov3_jax.config import from_config_dict
from dinov3_jax.train.loop import train


def run(argv: list[str]) -> None:
    recipe, workdir = parse_recipe(argv)
    train(from_config_dict(recipe), workdir)
