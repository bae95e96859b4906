"""An evaluation by its name, and its settings from text: ``key=value``, checked.

One evaluation may be asked for several times, with other data or settings: as NAME@LABEL, the label
being anything of letters, digits, "-" and "_". Settings, data and results go by the whole of it.
"""

import ast
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

from dinov3_jax.config import ConfigError
from dinov3_jax.evals.evaluation import Evaluation
from dinov3_jax.evals.suite import EVALUATIONS
from dinov3_jax.recipe import from_config_dict


def find(name: str) -> Evaluation:
    """The evaluation of NAME or NAME@LABEL; ``ConfigError`` that names the nearest."""
    kind, at, label = name.partition("@")
    if kind not in EVALUATIONS:
        close = difflib.get_close_matches(kind, EVALUATIONS, n=1, cutoff=0.0)
        raise ConfigError(
            f"there is no evaluation {kind!r}; did you mean {close[0]!r}? They are "
            f"{', '.join(EVALUATIONS)}"
        )
    if at and not re.fullmatch(r"[A-Za-z0-9_-]+", label):
        raise ConfigError(
            f"evaluation {name!r}: the label is {label!r}, wanted letters, digits, '-' and '_'"
        )
    return EVALUATIONS[kind]


def check_names(names: Sequence[str], where: str) -> None:
    """``ConfigError`` for a name that is not one, or is there twice; ``where`` is what has them."""
    for name in names:
        find(name)
        if names.count(name) > 1:
            raise ConfigError(
                f"{where} has {name} twice; give each a label of its own, as {name}@A, {name}@B"
            )


def parse(name: str, data: str, assignments: Sequence[str]) -> Any:
    """Settings of an evaluation, NAME or NAME@LABEL: defaults, ``data``, and each ``key=value``.

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
