"""Class logits of a frozen backbone and a linear head."""

import jax
import jax.numpy as jnp

from dinov3_jax.models.model import Model
from dinov3_jax.types import Features, Params


def classify(model: Model, head: Params, images: jax.Array) -> jax.Array:
    """[CLS, mean of patches], both normed, times ``kernel`` plus ``bias`` -> logits float32 [n, K].

    head: {"kernel": [2D, K], "bias": [K]}, of ``heads.load_classifier``. images: normalised
    [n, H, W, 3]. Raises ``ValueError`` if the head was made for a backbone of another width.
    """
    width, dim = head["kernel"].shape[0], model.config.embed_dim
    if width != 2 * dim:
        raise ValueError(
            f"the head takes {width} features; {model.name} gives {2 * dim} (CLS and mean patch "
            f"token, {dim} each): give the backbone that the head was trained on"
        )
    return _logits(head, model(images))


def top_classes(logits: jax.Array, count: int = 5) -> tuple[jax.Array, jax.Array]:
    """Logits [n, K] -> the most probable classes int32 [n, count] and their softmax, descending."""
    probabilities, classes = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), count)
    return classes, probabilities


@jax.jit
def _logits(head: Params, features: Features):
    patches = features.patch_tokens.astype(jnp.float32).mean(axis=1)
    x = jnp.concatenate([features.cls.astype(jnp.float32), patches], axis=-1)
    return x @ head["kernel"] + head["bias"]
