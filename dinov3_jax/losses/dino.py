"""The DINO loss: student crops predict the teacher's assignment of other crops of the image."""

import jax
import jax.numpy as jnp


def dino_loss(
    student_logits: jax.Array,
    teacher_targets: jax.Array,
    *,
    student_temperature: float = 0.1,
    ignore_diagonal: bool = False,
) -> jax.Array:
    """Cross-entropy of every student crop s against every teacher crop t of the same image.

        L = - 1/pairs · Σ_b Σ_{s,t} Σ_k  p_{b,t,k} · log softmax(z_{b,s} / 0.1)_k

    Args:
      student_logits: [B, S, K], S student crops, any float dtype; computed in float32.
      teacher_targets: [B, T, K], rows sum to 1; no gradient flows into them.
      ignore_diagonal: leave out s == t (the same crop in both networks). pairs is then
        B·S·T - B·min(S, T), else B·S·T.

    Returns:
      float32 scalar. A student that predicts nothing sits at ln K.

    Source: DINO (arXiv 2104.14294, eq. 3); DINOv3 (arXiv 2508.10104, eq. 1).

    >>> uniform = jnp.full((1, 2, 4), 0.25)
    >>> dino_loss(jnp.zeros((1, 2, 4)), uniform).round(4)  # ln 4
    Array(1.3863, dtype=float32)
    """
    batch, students, _ = student_logits.shape
    teachers = teacher_targets.shape[1]
    targets = jax.lax.stop_gradient(teacher_targets)
    log_p = jax.nn.log_softmax(student_logits.astype(jnp.float32) / student_temperature, axis=-1)
    # Elementwise product and sum, not a matmul: stays in float32 on every backend.
    total = jnp.sum(jnp.sum(targets, axis=1, keepdims=True) * jnp.sum(log_p, axis=1, keepdims=True))
    pairs = batch * students * teachers
    if ignore_diagonal:
        same = min(students, teachers)
        total -= jnp.sum(targets[:, :same] * log_p[:, :same])
        pairs -= batch * same
    return -total / pairs
