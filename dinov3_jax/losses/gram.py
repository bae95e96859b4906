"""The Gram loss: the student's patch similarities stay those of an earlier teacher."""

import jax
import jax.numpy as jnp

from dinov3_jax.losses.normalize import l2_normalize

NEGATIVES = ("keep", "remove", "remove_teacher", "clip_teacher")


def gram_loss(
    student_patches: jax.Array,
    teacher_patches: jax.Array,
    *,
    normalize: bool = True,
    negatives: str = "keep",
) -> jax.Array:
    """Mean squared difference of two Gram matrices.

        L = mean_{i,j} (x_i · x_j - y_i · y_j)²,   x = f / ‖f‖ (student), y = g / ‖g‖ (teacher)

    Args:
      student_patches: [..., P, D]; leading axes are independent: one crop each ("image" level), or
        one group each with P the patches of all its crops ("group" level). Computed in float32.
      teacher_patches: [..., P, D'] at the same positions; no gradient flows into them.
      normalize: cosines; False: plain dot products.
      negatives: what becomes of similarities below 0, in both matrices before the difference:
        "keep"; "remove": each matrix' own count as 0; "remove_teacher": where the teacher's is
        below 0 it counts as 0, and so does the student's if it is below 0 as well (no gradient
        there), while a positive one is drawn to 0; "clip_teacher": the teacher's count as 0, the
        student's stay (what the reference computes for its ``remove_only_teacher_neg``, whose
        second mask is empty).

    Returns:
      float32 scalar.

    Source: DINOv3 (arXiv 2508.10104, section 4.2, eq. 2), as a mean instead of a sum.

    >>> orthogonal, equal = jnp.eye(2), jnp.ones((2, 2))
    >>> gram_loss(orthogonal, equal).round(4)  # off the diagonal 0 against 1: two of four entries
    Array(0.5, dtype=float32)
    """
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives is {negatives!r}, wanted one of {NEGATIVES}")
    if student_patches.shape[:-1] != teacher_patches.shape[:-1]:
        raise ValueError(
            f"student patches {student_patches.shape[:-1]} and teacher patches "
            f"{teacher_patches.shape[:-1]} differ; resize the teacher's grid to the student's first"
        )
    student = _similarities(student_patches, normalize)
    teacher = jax.lax.stop_gradient(_similarities(teacher_patches, normalize))
    if negatives == "remove":
        student = jnp.where(student < 0.0, 0.0, student)
    elif negatives == "remove_teacher":
        student = jnp.where((student < 0.0) & (teacher < 0.0), 0.0, student)
    if negatives != "keep":
        teacher = jnp.maximum(teacher, 0.0)
    return jnp.mean(jnp.square(student - teacher))


def _similarities(patches, normalize):
    x = patches.astype(jnp.float32)
    x = l2_normalize(x) if normalize else x
    return jnp.einsum("...id,...jd->...ij", x, x, precision="highest")  # [..., P, P]
