"""One pre-norm transformer block, with stochastic depth by sample subset.

x <- x + LayerScale(Attention(Norm(x)));  x <- x + LayerScale(FFN(Norm(x)))

Tokens carry a group axis: [S, b, T, D]. Stochastic depth keeps exactly n = max(int(b(1-p)), 1)
of the b sequences of each group, runs the branch on those alone and adds its output times b/n.
The compute saved is real, the shapes are static, and no sample leaves its group.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dinov3_jax.config import CompleteVitConfig
from dinov3_jax.models import layers

# A permutation stays in bounds and repeats nothing: no row is checked or masked.
_ROWS: Any = {"unique_indices": True, "mode": "promise_in_bounds"}


def kept_samples(samples: int, drop_path: float) -> int:
    """n = max(int(b (1 - p)), 1)."""
    return max(int(samples * (1.0 - drop_path)), 1)


class Block(nnx.Module):
    def __init__(self, config: CompleteVitConfig, *, rngs: nnx.Rngs):
        self.norm1 = layers.norm(config, rngs)
        self.attn = layers.Attention(config, rngs=rngs)
        self.norm2 = layers.norm(config, rngs)
        self.ffn = {"mlp": layers.Mlp, "swiglu": layers.SwiGlu}[config.ffn](config, rngs=rngs)
        if config.layerscale is not None:
            scales = [
                layers.LayerScale(config.embed_dim, config.layerscale, dtype=config.dtype)
                for _ in range(2)
            ]
            self.ls1, self.ls2 = scales
        self.scaled = config.layerscale is not None
        self.drop_path = config.drop_path

    def __call__(
        self,
        x: jax.Array,
        sincos: tuple[jax.Array, jax.Array],
        keys: jax.Array | None,
        tokens: int | None = None,
    ) -> jax.Array:
        """x [S, b, T, D]; sin, cos [S or 1, 1, N, 1, C]; keys [S], None: no stochastic depth.

        ``tokens``: how many of T are not padding, all of them if None.
        """
        branch_keys = (None, None) if keys is None else jax.vmap(jax.random.split, out_axes=1)(keys)
        gammas = (self.ls1.gamma[...], self.ls2.gamma[...]) if self.scaled else (None, None)

        def attention(x, gamma):
            return self.attn(self.norm1(x), sincos, gamma, tokens)

        def feed_forward(x, gamma):
            return self.ffn(self.norm2(x), gamma)

        with jax.named_scope("attention"):
            x = self._residual(x, attention, gammas[0], branch_keys[0])
        with jax.named_scope("ffn"):
            return self._residual(x, feed_forward, gammas[1], branch_keys[1])

    def _residual(self, x, branch, gamma, keys):
        samples = x.shape[1]
        if keys is None or self.drop_path == 0.0:
            return x + branch(x, gamma)
        kept = kept_samples(samples, self.drop_path)
        subset = jax.vmap(lambda k: jax.random.permutation(k, samples))(keys)[:, :kept]  # [S, n]
        # b/n as a part of gamma: a factor of the last matrix, not one more pass over its output.
        gamma = jnp.float32(samples / kept) * (1.0 if gamma is None else gamma)
        out = branch(jax.vmap(lambda x, i: x.at[i].get(**_ROWS))(x, subset), gamma)
        return jax.vmap(lambda x, i, y: x.at[i].add(y, **_ROWS))(x, subset, out)
