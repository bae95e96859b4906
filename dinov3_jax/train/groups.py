"""Groups spread over micro-batches."""

import jax
import jax.numpy as jnp


def split_groups(tree, *, groups: int, parts: int):
    """[S·k, ...] leaves -> [parts, S/parts·k, ...]; part p holds groups p, p + parts, ...

    Strided, so that every part has groups on every device.
    """

    def split(x):
        each = x.shape[0] // groups
        x = x.reshape(groups // parts, parts, each, *x.shape[1:])
        return jnp.moveaxis(x, 1, 0).reshape(parts, groups // parts * each, *x.shape[3:])

    return jax.tree.map(split, tree)


def join_groups(tree, *, groups: int, parts: int):
    """The inverse of ``split_groups``."""

    def join(x):
        each = x.shape[1] * parts // groups
        x = x.reshape(parts, groups // parts, each, *x.shape[2:])
        return jnp.moveaxis(x, 0, 1).reshape(groups * each, *x.shape[3:])

    return jax.tree.map(join, tree)


def map_groups(function, tree, *, groups: int, parts: int):
    """``function`` of the whole tree, or of its ``parts`` micro-batches one after another."""
    if parts == 1:
        return function(tree)
    made = jax.lax.map(function, split_groups(tree, groups=groups, parts=parts))
    return join_groups(made, groups=groups, parts=parts)
