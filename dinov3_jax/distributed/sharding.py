"""Where every array lives: one table for parameters, one rule for batches.

Axes of the mesh: ``replica`` and ``fsdp`` share the batch; ``fsdp`` also shards every parameter,
teacher and optimizer moment; ``tensor`` splits the wide dimension of a matrix.
"""

import math
import re

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec as P

from dinov3_jax.types import Params

BATCH_AXES = ("replica", "fsdp", "fsdp_minor")

# The first pattern found in a parameter's path decides. Blocks carry the scanned axis Z in front.
RULES = (
    (r"blocks/attn/qkv/kernel$", P(None, "fsdp", ("fsdp_minor", "tensor"))),
    (r"blocks/attn/proj/kernel$", P(None, ("fsdp_minor", "tensor"), "fsdp")),
    (r"blocks/(ffn/)?(fc1|gate|value)/kernel$", P(None, "fsdp", ("fsdp_minor", "tensor"))),
    (r"blocks/(ffn/)?(fc2|out)/kernel$", P(None, ("fsdp_minor", "tensor"), "fsdp")),
    (r"blocks/depthwise/kernel$", P()),  # about 1% of a ConvNeXt
    (r"blocks/.*(bias|scale|gamma)$", P()),
    (r"(patch_embed|downsample/conv)/kernel$", P(None, None, None, "fsdp")),
    (r"(patch_embed|downsample/conv)/bias$", P()),
    (r"(cls_token|storage_tokens|mask_token)$", P()),
    (r"norm/(scale|bias)$", P()),
    (r"head/fc\d+/kernel$", P("fsdp_minor", "fsdp")),
    (r"head/fc\d+/bias$", P()),
    (r"head/prototypes/kernel$", P("fsdp_minor", "fsdp")),
)


def shard_batch(x: jax.Array) -> jax.Array:
    """Constrains axis 0 to the batch axes of the mesh in force.

    The identity without a mesh, and on a device's own part of the batch (``distributed.fsdp``).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or BATCH_AXES[0] in mesh.manual_axes:
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES))


def param_specs(params: Params, mesh: Mesh | AbstractMesh) -> Params:
    """A tree like ``params`` of ``PartitionSpec``; raises on a path that no rule covers.

    An axis that its mesh axis does not divide stays whole on every device.
    """

    def spec(path, leaf):
        name = path_name(path)
        for pattern, rule in RULES:
            if re.search(pattern, name):
                return _fit(rule, leaf.shape, mesh)
        raise ValueError(f"no sharding rule for parameter {name}; add one to RULES")

    return jax.tree_util.tree_map_with_path(spec, params)


def _fit(rule, shape, mesh):
    return P(*(_divides(axes, n, mesh) for axes, n in zip(rule, shape)))


def _divides(axes, length, mesh):
    names = (axes,) if isinstance(axes, str) else axes or ()
    names = tuple(a for a in names if mesh.shape[a] > 1)
    if not names or length % math.prod(mesh.shape[a] for a in names):
        return None
    return names[0] if len(names) == 1 else names


def path_name(path) -> str:
    """A tree path as ``backbone/blocks/attn/qkv/kernel``."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def named(specs, mesh: Mesh | AbstractMesh):
    """Specs -> shardings on ``mesh``."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, P)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(BATCH_AXES))
