"""The projection head of the DINO and iBOT losses."""

import itertools

import jax
from flax import nnx

from dinov3_jax.config import HeadConfig
from dinov3_jax.distributed.sharding import shard_batch
from dinov3_jax.losses.normalize import l2_normalize
from dinov3_jax.models.layers import linear


class ProjectionHead(nnx.Module):
    """MLP (exact GELU between layers) -> unit length -> prototypes, without bias.

    [..., D] -> logits [..., K]. The unit vectors are computed in float32.
    """

    def __init__(self, dim: int, config: HeadConfig, *, dtype: str, rngs: nnx.Rngs):
        widths = [dim, *[config.hidden] * (config.layers - 1), config.bottleneck]
        self.layers = config.layers
        for i, (a, b) in enumerate(itertools.pairwise(widths), start=1):
            setattr(self, f"fc{i}", linear(a, b, bias=True, dtype=dtype, rngs=rngs))
        self.prototypes = linear(
            config.bottleneck, config.prototypes, bias=False, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return shard_batch(self.prototypes(self.project(x)))

    def project(self, x: jax.Array) -> jax.Array:
        """[..., D] -> unit vectors [..., bottleneck] in float32, before the prototypes."""
        for i in range(1, self.layers + 1):
            x = getattr(self, f"fc{i}")(jax.nn.gelu(x, approximate=False) if i > 1 else x)
            # As in the blocks: gather the weights, not the activations.
            x = shard_batch(x)
        return l2_normalize(x.astype("float32"))
