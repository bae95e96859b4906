"""Fully sharded data parallelism: whole weights exist for the moment in which they are used.

The one place where devices are programmed one by one (``jax.shard_map``). Networks see each image
alone and stochastic depth never leaves its group, so that a device can take its own images through
them without a word to the others, but for the weights:

- forward: a matrix is cast to the compute dtype and gathered, one mesh axis after the other;
- backward: its gradient is cast to float32, summed and scattered, the same axes in reverse.

The losses, Sinkhorn-Knopp and the optimizer are outside and see global arrays. Left to the
compiler, gathers and scatters over more than one axis of a TPU torus become synchronous
all-reduces of the whole weight (docs/design/0004-scale.md).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from dinov3_jax.distributed.sharding import BATCH_AXES, param_specs, path_name
from dinov3_jax.types import Params


def fully_sharded(
    function: Callable[[Params, Params, Any], Any],
    params: Params,
    arrays: Any,
    *,
    dtype: str,
) -> Any:
    """``function(params, layout, arrays)``, each device on its own part of axis 0 of ``arrays``.

    ``function`` may use images and groups of images in no way but each for itself; its results
    have the images, or groups, on axis 0 too. It gets whole parameters, with kernels in ``dtype``,
    except those below ``blocks``: the scan over blocks calls ``gather_layer`` with its part of
    ``layout[network]``. Where the batch is not shared those are None and nothing is gathered.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or all(mesh.shape[axis] == 1 for axis in BATCH_AXES):
        return function(params, dict.fromkeys(params), arrays)
    layout = jax.tree.map(_by_hand, param_specs(params, mesh), is_leaf=_is_spec)

    def local(params, arrays):
        def whole(path, leaf, spec):
            scanned = "blocks" in path_name(path).split("/")
            return leaf if scanned else _whole(path, leaf, spec, dtype)

        params = jax.tree_util.tree_map_with_path(whole, params, layout)
        return function(params, layout, arrays)

    return jax.shard_map(
        local,
        in_specs=(layout, P(BATCH_AXES)),
        out_specs=P(BATCH_AXES),
        # ``tensor``, where it is used, stays with the compiler.
        axis_names=set(mesh.axis_names if mesh.shape["tensor"] == 1 else BATCH_AXES),
        check_vma=False,
    )(params, arrays)


def gather_layer(params: Params, layout: Params | None, *, dtype: str) -> Params:
    """The whole parameters of one block; ``layout``: that of the stack. The identity if None."""
    if layout is None:
        return params

    one = lambda path, leaf, spec: _whole(path, leaf, P(*spec[1:]), dtype)  # noqa: E731
    return jax.tree_util.tree_map_with_path(one, params, layout)


def _whole(path, leaf, spec, dtype):
    """Kernels in the compute dtype, vectors as they are."""
    return _gather(leaf, spec, dtype if path[-1].key == "kernel" else leaf.dtype.name)


def _by_hand(spec: P) -> P:
    """The part of a spec that names batch axes."""
    kept = [tuple(a for a in _names(axes) if a in BATCH_AXES) for axes in spec]
    return P(*(names or None for names in kept))


def _names(axes):
    return (axes,) if isinstance(axes, str) else axes or ()


def _is_spec(x):
    return isinstance(x, P)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(shard, spec, dtype):
    whole = shard.astype(dtype)
    for dim, axes in enumerate(spec):
        for name in reversed(_names(axes)):
            whole = jax.lax.all_gather(whole, name, axis=dim, tiled=True)
    return whole


def _gather_forward(shard, spec, dtype):
    return _gather(shard, spec, dtype), None


def _gather_backward(spec, dtype, _, gradient):
    # float32 sums of gradients that each device has in ``dtype``, as in the reference.
    part = gradient.astype(jnp.float32)
    for dim, axes in reversed(list(enumerate(spec))):
        for name in _names(axes):
            part = jax.lax.psum_scatter(part, name, scatter_dimension=dim, tiled=True)
    return (part,)


_gather.defvjp(_gather_forward, _gather_backward)
