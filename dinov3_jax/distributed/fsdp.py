"""Fully sharded data parallelism: whole weights exist for the moment in which they are used.

The one place where devices are programmed one by one (``jax.shard_map``). Networks see each image
alone and stochastic depth never leaves its group, so that a device can take its own images through
them without a word to the others, but for the weights:

- forward: a matrix is cast to the compute dtype and gathered, one mesh axis after the other;
- backward: its gradient is summed in float32 and scattered, the same axes in reverse. It travels in
  float32, or in bfloat16 (``reduce_dtype``): then each device is sent all parts of its own shard
  and adds them in float32.

The losses, Sinkhorn-Knopp and the optimizer are outside and see global arrays. Left to the
compiler, gathers and scatters over more than one axis of a TPU torus become synchronous
all-reduces of the whole weight (docs/design/0004-scale.md).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from dinov3_jax.distributed.sharding import BATCH_AXES, param_specs, path_name
from dinov3_jax.types import Params


class Leaf(NamedTuple):
    """Where a parameter lies, and how its gradient travels."""

    spec: P  # of the batch axes alone
    reduce_dtype: str


def fully_sharded(
    function: Callable[[Params, Params, Any], Any],
    params: Params,
    arrays: Any,
    *,
    dtype: str,
    reduce_dtype: str,
) -> Any:
    """``function(params, layout, arrays)``, each device on its own part of axis 0 of ``arrays``.

    ``function`` may use images and groups of images in no way but each for itself; its results
    have the images, or groups, on axis 0 too. It gets whole parameters, with kernels in ``dtype``,
    except those below ``blocks``: the scan over blocks calls ``gather_layer`` with its part of
    ``layout[network]``. Where the batch is not shared those are None and nothing is gathered.
    ``reduce_dtype``: "float32" | "bfloat16", of gradients on their way between devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or all(mesh.shape[axis] == 1 for axis in BATCH_AXES):
        return function(params, dict.fromkeys(params), arrays)
    specs = jax.tree.map(_by_hand, param_specs(params, mesh), is_leaf=_is_spec)
    layout = jax.tree.map(lambda spec: Leaf(spec, reduce_dtype), specs, is_leaf=_is_spec)

    def local(params, arrays):
        def whole(path, leaf, where):
            scanned = "blocks" in path_name(path).split("/")
            return leaf if scanned else _whole(path, leaf, where, dtype)

        params = jax.tree_util.tree_map_with_path(whole, params, layout)
        return function(params, layout, arrays)

    return jax.shard_map(
        local,
        in_specs=(specs, P(BATCH_AXES)),
        out_specs=P(BATCH_AXES),
        # ``tensor``, where it is used, stays with the compiler.
        axis_names=set(mesh.axis_names if mesh.shape["tensor"] == 1 else BATCH_AXES),
        check_vma=False,
    )(params, arrays)


def gather_layer(params: Params, layout: Params | None, *, dtype: str) -> Params:
    """The whole parameters of one block; ``layout``: that of the stack. The identity if None."""
    if layout is None:
        return params

    def one(path, leaf, where):
        return _whole(path, leaf, where._replace(spec=P(*where.spec[1:])), dtype)

    return jax.tree_util.tree_map_with_path(one, params, layout)


def _whole(path, leaf, where, dtype):
    """Kernels in the compute dtype, vectors as they are."""
    return _gather(leaf, where, dtype if path[-1].key == "kernel" else leaf.dtype.name)


def _by_hand(spec: P) -> P:
    """The part of a spec that names batch axes."""
    kept = [tuple(a for a in _names(axes) if a in BATCH_AXES) for axes in spec]
    return P(*(names or None for names in kept))


def _names(axes):
    return (axes,) if isinstance(axes, str) else axes or ()


def _is_spec(x):
    return isinstance(x, P)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(shard, where, dtype):
    whole = shard.astype(dtype)
    for dim, axes in enumerate(where.spec):
        for name in reversed(_names(axes)):
            whole = jax.lax.all_gather(whole, name, axis=dim, tiled=True)
    return whole


def _gather_forward(shard, where, dtype):
    return _gather(shard, where, dtype), None


def _gather_backward(where, dtype, _, gradient):
    # float32 sums of gradients that each device has in ``dtype``, as in the reference.
    scatter = _scatter_bfloat16 if where.reduce_dtype == "bfloat16" else _scatter
    part = gradient.astype(jnp.float32)
    for dim, axes in reversed(list(enumerate(where.spec))):
        for name in _names(axes):
            part = scatter(part, name, dim)
    return (part,)


def _scatter(x, name, dim):
    return jax.lax.psum_scatter(x, name, scatter_dimension=dim, tiled=True)


def _scatter_bfloat16(x, name, dim):
    """``_scatter`` with half of the bytes: parts are rounded once, then sent; no sum is rounded."""
    sent = jax.lax.all_to_all(
        x.astype(jnp.bfloat16), name, split_axis=dim, concat_axis=dim, tiled=True
    )
    parts = sent.reshape(*x.shape[:dim], jax.lax.axis_size(name), -1, *x.shape[dim + 1 :])
    return parts.astype(jnp.float32).sum(axis=dim)


_gather.defvjp(_gather_forward, _gather_backward)
