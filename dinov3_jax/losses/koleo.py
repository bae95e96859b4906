"""The KoLeo regulariser: features of a group spread over the sphere."""

import jax
import jax.numpy as jnp

from dinov3_jax.losses.normalize import l2_normalize


def koleo_loss(features: jax.Array, *, topk: int = 1, eps: float = 1e-8) -> jax.Array:
    """Minus the mean log-distance to the nearest neighbours within each group.

        x_i = f_i / max(‖f_i‖, ε),   L = - mean_{i, j in NN_k(i)} log(‖x_i - x_j + ε‖₂ + ε)

    Args:
      features: [..., n, D]; leading axes are independent groups. Computed in float32. Gradient
        flows into both ends of each pair, not into the choice of neighbours.
      topk: neighbours per sample, at most n - 1.

    Returns:
      float32 scalar; negative when neighbours are farther than 1 apart. A group of one sample has
      no neighbour: the value is 0. Duplicates give -log(ε (1 + √D)): finite, gradient too.

    Source: Sablayrolles et al. (arXiv 1806.03198, eq. 2); DINOv3 (arXiv 2508.10104, eq. 1).

    >>> koleo_loss(jnp.array([[1.0, 0.0], [0.0, 1.0]])).round(4)  # -ln √2
    Array(-0.3466, dtype=float32)
    >>> koleo_loss(jnp.ones((1, 4)))
    Array(0., dtype=float32)
    """
    n = features.shape[-2]
    if n == 1:
        return jnp.zeros((), jnp.float32)
    if not 1 <= topk < n:
        raise ValueError(f"topk is {topk}, wanted 1 to {n - 1} in groups of {n} samples")
    x = l2_normalize(features.astype(jnp.float32), eps=eps)
    cosines = jnp.einsum("...id,...jd->...ij", x, x, precision="highest")
    cosines = jnp.where(jnp.eye(n, dtype=bool), -1.0, jax.lax.stop_gradient(cosines))
    # A sort, not top_k: the partitioner gathers the operand of top_k from all devices.
    neighbours = jnp.argsort(-cosines, axis=-1)[..., :topk]  # [..., n, k]
    take = jnp.vectorize(lambda x, i: x[i], signature="(n,d),(n,k)->(n,k,d)")
    offsets = x[..., :, None, :] - take(x, neighbours) + eps  # [..., n, k, D]
    distances = jnp.linalg.norm(offsets, axis=-1)
    return -jnp.mean(jnp.log(distances + eps))
