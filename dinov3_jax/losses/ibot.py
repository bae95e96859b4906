"""The iBOT loss: at masked patches the student predicts the teacher's assignment."""

import jax
import jax.numpy as jnp


def ibot_loss(
    student_logits: jax.Array,
    teacher_targets: jax.Array,
    mask_weights: jax.Array,
    *,
    crops: int,
    student_temperature: float = 0.1,
) -> jax.Array:
    """Cross-entropy at masked patches, averaged per crop, then over all crops.

        L = - 1/crops · Σ_m w_m · Σ_k  p_{m,k} · log softmax(z_m / 0.1)_k

    Args:
      student_logits: [..., M, K] at the masked patches, the student having seen the mask token.
      teacher_targets: [..., M, K] at the same patches, unmasked; no gradient flows into them.
      mask_weights: [..., M], 1 / (masked patches of the token's crop).
      crops: number of global crops in the batch, unmasked ones included. With half of them masked
        the value is therefore half of the mean cross-entropy.

    Returns:
      float32 scalar.

    Source: iBOT (arXiv 2111.07832, eq. 3); DINOv3 (arXiv 2508.10104, eq. 1).

    >>> uniform = jnp.full((2, 4), 0.25)  # two masked patches of one crop, K = 4
    >>> ibot_loss(jnp.zeros((2, 4)), uniform, jnp.array([0.5, 0.5]), crops=1).round(4)  # ln 4
    Array(1.3863, dtype=float32)
    """
    log_p = jax.nn.log_softmax(student_logits.astype(jnp.float32) / student_temperature, axis=-1)
    cross_entropy = -jnp.sum(jax.lax.stop_gradient(teacher_targets) * log_p, axis=-1)  # [..., M]
    return jnp.sum(mask_weights * cross_entropy) / crops
