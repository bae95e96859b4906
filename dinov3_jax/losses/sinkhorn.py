"""Teacher targets: Sinkhorn-Knopp, or softmax with a running centre.

Sinkhorn-Knopp turns the teacher's logits into soft assignments whose prototypes are used equally
over the batch, which is what keeps self-distillation from collapsing. Source: SwAV
(arXiv 2006.09882), used for both losses of DINOv3 (arXiv 2508.10104, section 3.2).
"""

import jax
import jax.numpy as jnp


def sinkhorn(
    logits: jax.Array,
    *,
    temperature: jax.Array | float,
    iterations: int = 3,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Soft assignments with (nearly) equal prototype use.

    Q = diag(r) exp(Z/τ) diag(c), where in turn c makes every prototype's column sum to the same
    value and r makes every sample's row sum to 1; ``iterations`` times. In logarithms:

        log c_k = -logsumexp_n(Z_nk/τ + log r_n),    log r_n = -logsumexp_k(Z_nk/τ + log c_k)

    so no temperature overflows, and only two vectors are carried along.

    Args:
      logits: [n, K], any float dtype; computed in float32. The batch is global: with sharded rows
        the partitioner adds one small all-reduce an iteration.
      temperature: τ > 0.
      iterations: >= 1.
      valid: bool [n] or None. Rows that are False count for no prototype; their own row is still
        normalised.

    Returns:
      float32 [n, K], each row sums to 1.

    >>> z = jnp.array([[9.0, 0.0], [8.0, 0.0]])  # both prefer prototype 0
    >>> sinkhorn(z, temperature=1.0, iterations=50).sum(axis=0).round(3)  # yet both are used
    Array([1., 1.], dtype=float32)
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}, wanted at least 1")
    scores = logits.astype(jnp.float32) / temperature
    if not scores.size:  # a batch without masked patches
        return scores
    count = 0.0 if valid is None else jnp.where(valid, 0.0, -jnp.inf)[:, None]
    rows = jnp.zeros((scores.shape[0], 1), jnp.float32)
    for _ in range(iterations):
        columns = -jax.nn.logsumexp(scores + rows + count, axis=0, keepdims=True)  # [1, K]
        rows = -jax.nn.logsumexp(scores + columns, axis=1, keepdims=True)  # [n, 1]
    return jnp.exp(scores + columns + rows)


def center_softmax(
    logits: jax.Array, center: jax.Array, *, temperature: jax.Array | float
) -> jax.Array:
    """softmax((Z - centre) / τ): [n, K] and [K] -> float32 [n, K].

    >>> center_softmax(jnp.array([[2.0, 0.0]]), jnp.array([2.0, 0.0]), temperature=0.1)
    Array([[0.5, 0.5]], dtype=float32)
    """
    return jax.nn.softmax((logits.astype(jnp.float32) - center) / temperature, axis=-1)


def update_center(center: jax.Array, logits: jax.Array, *, momentum: float = 0.9) -> jax.Array:
    """momentum · centre + (1 - momentum) · mean of the batch's logits; used from the next step.

    >>> update_center(jnp.zeros(2), jnp.array([[1.0, 3.0], [3.0, 3.0]]))
    Array([0.2, 0.3], dtype=float32)
    """
    return momentum * center + (1.0 - momentum) * jnp.mean(logits.astype(jnp.float32), axis=0)
