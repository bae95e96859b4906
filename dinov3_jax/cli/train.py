"""``dinov3 train --config=FILE.py[:ARG] --workdir=DIR [--config.a.b=v ...]``."""

from absl import flags
from ml_collections import config_flags

from dinov3_jax.config import ConfigError, from_config_dict
from dinov3_jax.train.loop import train


def run(argv: list[str]) -> None:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "recipe: a Python file with get_config()", flag_values=values
    )
    flags.DEFINE_string("workdir", None, "folder of the run, local or gs://", flag_values=values)
    parse(values, argv)
    for name in ("config", "workdir"):
        if values[name].value is None:
            raise ConfigError(f"--{name} is missing; dinov3 train --config=FILE.py --workdir=DIR")
    try:
        recipe = values.config.to_dict()
    except OSError as error:  # ml_collections: the file is missing or does not run
        raise ConfigError(str(error)) from error
    train(from_config_dict(recipe), values.workdir)


def parse(values: flags.FlagValues, argv: list[str]) -> None:
    """Parses ``argv`` (without a program name); a misspelt key names the nearest one."""
    flags.DEFINE_boolean("help", False, "show this help", flag_values=values, short_name="h")
    try:
        rest = values(["dinov3", *argv])
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    except (AttributeError, KeyError) as error:  # ml_collections: no such key in the recipe
        raise ConfigError(str(error).strip("'\"")) from error
    if values.help:
        print(values.main_module_help() or values.get_help())
        raise SystemExit(0)
    if rest[1:]:
        raise ConfigError(f"arguments {rest[1:]} are not understood; options start with --")
