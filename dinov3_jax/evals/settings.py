"""Settings of an evaluation from text: ``key=value``, checked against its dataclass."""

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any

from dinov3_jax.config import ConfigError
from dinov3_jax.evals.evaluation import Evaluation
from dinov3_jax.evals.suite import EVALUATIONS
from dinov3_jax.recipe import from_config_dict


def find(name: str) -> Evaluation:
    """The evaluation of that name; ``ConfigError`` that names the nearest."""
    if name not in EVALUATIONS:
        close = difflib.get_close_matches(name, EVALUATIONS, n=1, cutoff=0.0)
        raise ConfigError(
            f"there is no evaluation {name!r}; did you mean {close[0]!r}? They are "
            f"{', '.join(EVALUATIONS)}"
        )
    return EVALUATIONS[name]


def parse(name: str, data: str, assignments: Sequence[str]) -> Any:
    """Settings of the evaluation ``name``: its defaults, ``data``, and each ``key=value``.

    A value is a Python literal: ``28``, ``1e-3``, ``True``, ``None``, ``(10,20)`` or ``10,20``;
    text needs no quotes. Raises ``ConfigError`` for a name or key that does not exist and for a
    value of another type.
    """
    schema = find(name).settings
    values = {
        field.name: field.default
        for field in dataclasses.fields(schema)
        if field.default is not dataclasses.MISSING
    }
    kinds = {field.name: field.type for field in dataclasses.fields(schema)}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"setting {assignment!r} of {name}, wanted key=value")
        values[key] = _value(text, kinds.get(key))
    return from_config_dict(values | {"data": data}, schema, name)


def _value(text: str, kind: Any) -> Any:
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if str in options:
        return None if text == "None" and types.NoneType in options else text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # of a wrong type, which from_config_dict says
