"""Command-line flags of a recipe: ``--config.a.b=v``, with errors in sentences."""

import re

from absl import flags
from ml_collections import ConfigDict, config_flags

from dinov3_jax.config import ConfigError


def parse_recipe(argv: list[str], recipe: ConfigDict | None = None) -> tuple[ConfigDict, str]:
    """(recipe with every ``--config.a.b=v`` of ``argv`` applied, ``--workdir``).

    Without ``recipe``, ``--config=FILE.py[:ARG]`` names one. Raises ``ConfigError`` for a missing
    flag, a key that does not exist (naming the nearest), or a value of another type.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_boolean("help", False, "show this help", flag_values=values, short_name="h")
    # ml_collections parses neither None for a number nor the key "from": those are set afterwards.
    late = [a for a in argv if re.fullmatch(r"--config\.([\w.]+=None|([\w.]+\.)?from=.*)", a)]
    # It wants to see --config before the keys inside it.
    early = sorted((a for a in argv if a not in late), key=lambda a: not a.startswith("--config="))
    line = ["dinov3", *early]
    if recipe is None:
        config_flags.DEFINE_config_file(
            "config", None, "recipe: FILE.py[:ARG]", flag_values=values, sys_argv=line
        )
    else:
        config_flags.DEFINE_config_dict("config", recipe, flag_values=values, sys_argv=line)
    try:
        rest = values(line)
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(_sentence(error)) from error
    if values.help:
        print(values.get_help())
        raise SystemExit(0)
    if rest[1:]:
        raise ConfigError(f"arguments {rest[1:]} are not understood; options start with --")
    for name in ("config", "workdir"):
        if values[name].value is None:
            raise ConfigError(f"--{name} is missing; see --help")
    try:
        chosen = values.config.copy_and_resolve_references()
    except OSError as error:  # the file is missing or does not run
        raise ConfigError(str(error)) from error
    for flag in late:
        path, _, value = flag.removeprefix("--config.").partition("=")
        _set(chosen, path, None if value == "None" else value)
    return chosen, values.workdir


def _set(recipe, path, value):
    *parents, key = path.split(".")
    section = recipe
    try:
        for parent in parents:
            section = section[parent]
        section[key]  # must exist
    except (KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"config.{path}: {_sentence(error)}") from error
    with section.ignore_type():
        section[key] = value


def _sentence(error):
    text = str(error.args[0]) if error.args else str(error)
    text = " ".join(text.replace("\\n", " ").replace("\\'", "'").split()).strip("'\"")
    if "as a ConfigDict" in text:
        text += "; it is a section: set one of its keys, for instance .peak"
    return text
