"""The one door through which a recipe enters, and the way back out.

A recipe (``configs/*.py``) is a locked ``ml_collections.ConfigDict``; the library sees the frozen
dataclasses of ``config.py``. Unknown and missing keys are errors that name the nearest valid key.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

from dinov3_jax.config import ConfigError, TrainConfig


def from_config_dict(config: Any, schema: Any = TrainConfig, path: str = "config"):
    """Recipe -> frozen dataclass of type ``schema``; raises ``ConfigError`` on any misfit."""
    if hasattr(config, "to_dict"):  # an ml_collections.ConfigDict is no Mapping
        config = config.to_dict()
    # A field ``from_`` is the key ``from``, which Python keeps for itself.
    fields = {field.name.rstrip("_"): field.type for field in dataclasses.fields(schema)}
    for key in config:
        if key not in fields:
            raise ConfigError(f"unknown key {path}.{key}; {_nearest(key, fields)}")
    missing = [name for name in fields if name not in config]
    if missing:
        raise ConfigError(
            f"{path} lacks {', '.join(missing)}; start the recipe from configs/base.py, "
            "which sets every key"
        )
    return schema(
        *(_convert(config[name], kind, f"{path}.{name}") for name, kind in fields.items())
    )


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of ``from_config_dict``: nested dicts with the keys of a recipe."""
    named = lambda pairs: {name.rstrip("_"): value for name, value in pairs}  # noqa: E731
    return dataclasses.asdict(config, dict_factory=named)


def _nearest(key, names) -> str:
    close = difflib.get_close_matches(key, list(names), n=1, cutoff=0.0)
    return f"did you mean {close[0]!r}?" if close else "the section takes no keys"


def _convert(value, kind, path):
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} is {value!r}, wanted a section with keys")
        return from_config_dict(value, kind, path)
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
        return _convert(value, kind, path)
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if kinds[-1] is ... and isinstance(value, (tuple, list)):  # any number of them
            kinds = kinds[:1] * len(value)
        if not isinstance(value, (tuple, list)) or len(value) != len(kinds):
            raise ConfigError(f"{path} is {value!r}, wanted {len(kinds)} values")
        return tuple(_convert(v, k, f"{path}[{i}]") for i, (v, k) in enumerate(zip(value, kinds)))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{path} is {value!r} ({type(value).__name__}), wanted {kind.__name__}")
    return value
