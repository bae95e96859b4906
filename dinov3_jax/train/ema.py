"""The teacher: an exponential moving average of the student."""

import jax

from dinov3_jax.types import Params


def ema_update(
    teacher: Params,
    student: Params,
    momentum: jax.Array | float,
    complement: jax.Array | float,
) -> Params:
    """momentum · teacher + complement · student, leaf by leaf, in the leaves' float32.

    ``complement`` is 1 - momentum, given apart because the subtraction costs float32 up to all its
    digits when momentum is near 1 (0.9999: relative error 6e-4).

    Source: DINO (arXiv 2104.14294, section 3.1).

    >>> teacher, student = jax.numpy.float32(1.0), jax.numpy.float32(0.0)
    >>> ema_update({"bias": teacher}, {"bias": student}, 0.75, 0.25)
    {'bias': Array(0.75, dtype=float32)}
    """

    return jax.tree.map(lambda t, s: momentum * t + complement * s, teacher, student)
