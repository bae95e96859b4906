"""Masks of objects carried from frame to frame of a video by the likeness of patches.

Nothing is trained. Every patch of a new frame takes the labels of the patches most like it in the
first frame and in the last few before it (DINOv3, appendix D.5).
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from dinov3_jax.config import ConfigError

NEIGHBOURHOODS = ("circle", "square")


@dataclasses.dataclass(frozen=True)
class Propagation:
    """How labels travel; the defaults are the published ones."""

    context: int = 7  # frames before this one that are looked at, beside the first
    radius: int | None = 12  # patches: how far a label may travel; None: anywhere
    neighbourhood: str = "circle"  # Euclidean distance within the radius; "square": Chebyshev
    top_k: int = 5  # patches that a patch takes its label from, of all frames together
    temperature: float = 0.2  # of the softmax of cosines

    def __post_init__(self):
        if self.neighbourhood not in NEIGHBOURHOODS:
            raise ConfigError(
                f"neighbourhood is {self.neighbourhood!r}, wanted {' or '.join(NEIGHBOURHOODS)}"
            )
        least = {"context": 0, "top_k": 1} | ({} if self.radius is None else {"radius": 0})
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)}, wanted at least {low}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}, wanted above 0")


def propagate(
    frames: Iterable[np.ndarray], labels: np.ndarray, how: Propagation
) -> Iterator[np.ndarray]:
    """Labels of every frame after the first, float32 [h, w, K], each when its frame has come.

    Args:
      frames: patch tokens [h, w, D] of each frame in order, all of one shape.
      labels: [h, w, K] of the first frame, non-negative, summing to 1 over K (background is one).
    """
    frames = iter(frames)
    first = next(frames)
    classes = labels.shape[-1]
    if labels.shape[:2] != first.shape[:2]:
        raise ValueError(
            f"labels are {list(labels.shape)}, the first frame {list(first.shape)}; wanted "
            "[h, w, K] and [h, w, D]"
        )
    # Videos differ in the number of objects: with channels that stay 0 few programs serve all.
    padded = np.pad(labels, ((0, 0), (0, 0), (0, -classes % 8))).astype(np.float32)
    slots = 1 + how.context  # slot 0 is the first frame, the others are overwritten in turn
    tokens = jnp.zeros((slots, *first.shape), jnp.float32).at[0].set(_unit(first))
    known = jnp.zeros((slots, *padded.shape), jnp.float32).at[0].set(padded)
    for i, frame in enumerate(frames):
        filled = np.arange(slots) <= i
        query = _unit(frame)
        found = transfer(query, tokens, known, filled, how)
        if how.context:
            tokens, known = _remember(tokens, known, query, found, 1 + i % how.context)
        yield np.asarray(found)[..., :classes]


@functools.partial(jax.jit, static_argnames="how")
def transfer(
    query: jax.Array, context: jax.Array, labels: jax.Array, filled: jax.Array, how: Propagation
) -> jax.Array:
    """Labels of the patches ``query`` [h, w, D] from t labelled frames, float32 [h, w, K].

    context [t, h, w, D] and labels [t, h, w, K], of which ``filled`` [t] frames count; tokens have
    length 1. For a patch, s are its cosines with the patches of the context no farther than
    ``how.radius``; those as large as the k-th largest stay (all of them where some are equal), and

      label = Σ softmax(s / temperature) label of the context, divided by its sum over K.

    One row of patches at a time, against the rows within the radius: the [h w, t h w] cosines
    never exist together.
    """
    _, h, w, K = labels.shape
    rows = h if how.radius is None else min(2 * how.radius + 1, h)
    across = jnp.arange(w)[:, None] - jnp.arange(w)  # [w, w]

    def row(y):
        top = jnp.clip(y - rows // 2, 0, h - rows)
        near = jax.lax.dynamic_slice_in_dim(context, top, rows, axis=1)
        near_labels = jax.lax.dynamic_slice_in_dim(labels, top, rows, axis=1)
        # "highest": TPUs and recent GPUs would round the inputs.
        cosines = jnp.matmul(query[y], near.reshape(-1, near.shape[-1]).T, precision="highest")
        down = top + jnp.arange(rows) - y
        allowed = (
            filled[:, None, None]
            & neighbours(
                down[:, None], across[:, None], radius=how.radius, neighbourhood=how.neighbourhood
            )[:, None]
        )  # [w, t, rows, w]
        cosines = jnp.where(allowed.reshape(w, -1), cosines, -jnp.inf)
        least = jax.lax.top_k(cosines, min(how.top_k, cosines.shape[1]))[0][:, -1:]
        kept = jnp.where(cosines >= least, cosines, -jnp.inf)
        weights = jax.nn.softmax(kept / how.temperature, axis=-1)
        found = jnp.matmul(weights, near_labels.reshape(-1, K), precision="highest")
        return found / found.sum(axis=-1, keepdims=True)

    return jax.lax.map(row, jnp.arange(h))


def neighbours(down, across, *, radius: int | None, neighbourhood: str):
    """Whether a patch ``down`` and ``across`` patches away may lend its label; arrays of int."""
    if radius is None:
        return jnp.ones(jnp.broadcast_shapes(down.shape, across.shape), bool)
    if neighbourhood == "circle":
        return down**2 + across**2 <= radius**2
    return jnp.maximum(abs(down), abs(across)) <= radius


@jax.jit
def _unit(tokens):
    tokens = tokens.astype(jnp.float32)
    return tokens / jnp.maximum(jnp.linalg.norm(tokens, axis=-1, keepdims=True), 1e-12)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _remember(tokens, labels, query, found, slot):
    return tokens.at[slot].set(query), labels.at[slot].set(found)
