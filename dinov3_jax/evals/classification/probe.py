"""A grid of linear classifiers of frozen features, trained at once.

    minimise, for each cell, mean_images CE(x kernel + bias, label)

by SGD with momentum .9, the rate falling by a cosine to 0. Cells never meet: the loss is the sum of
theirs, each has its own rate and weight decay, and those that see the same part of a feature are
one matrix product. All start from the same N(0, .01^2) and bias 0, so that a cell ends where it
would if it were trained alone.
"""

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dinov3_jax.evals.classification.metrics import ranks

MOMENTUM = 0.9


class Cell(NamedTuple):
    """What one classifier sees, and how it is trained."""

    span: tuple[int, int]  # the columns of a feature [F] it sees, from .. to
    lr: float  # at the first step
    weight_decay: float  # of kernel and bias


class Linear(NamedTuple):
    """C classifiers of the same columns; without the axis C, one."""

    kernel: jax.Array  # float32 [columns, C, K]
    bias: jax.Array  # float32 [C, K]


class Batch(NamedTuple):
    """Features of B images, on the devices; rows of weight 0 fill a batch up."""

    features: jax.Array  # float32 [B, F]
    labels: jax.Array  # int32 [B]
    weights: jax.Array  # float32 [B], 1 or 0


class Trained(NamedTuple):
    """Classifiers by the columns they see, beside the places of their cells in the grid."""

    classifiers: dict[tuple[int, int], Linear]
    places: dict[tuple[int, int], list[int]]

    def one(self, cell: int) -> tuple[tuple[int, int], Linear]:
        """Columns and classifier [columns, K] of a cell, by its place in the grid."""
        for span, places in self.places.items():
            if cell in places:
                c = places.index(cell)
                kernel, bias = self.classifiers[span]
                return span, Linear(kernel[:, c], bias[c])
        raise ValueError(
            f"there is no cell {cell} in a grid of {sum(map(len, self.places.values()))}"
        )


def grid(
    spans: Iterable[tuple[int, int]], lrs: Iterable[float], weight_decays: Iterable[float]
) -> list[Cell]:
    """Every combination."""
    return [Cell(*cell) for cell in itertools.product(spans, lrs, weight_decays)]


def train(
    cells: Sequence[Cell],
    batches: Iterable[Batch],
    *,
    classes: int,
    steps: int,
    mesh: Mesh,
    seed: int = 0,
) -> Trained:
    """``steps`` steps of all cells; ``batches`` are at least as many.

    Classifiers are whole on each device of ``mesh``, and images are shared among the devices as
    the batches are.
    """
    places: dict[tuple[int, int], list[int]] = {}
    for place, cell in enumerate(cells):
        places.setdefault(cell.span, []).append(place)
    key, whole = jax.random.key(seed), NamedSharding(mesh, P())
    classifiers, rates = {}, {}
    for span, members in places.items():
        width, count = span[1] - span[0], len(members)
        kernel = 0.01 * jax.random.normal(key, (width, 1, classes))
        kernel = jnp.tile(kernel, (1, count, 1))
        classifiers[span] = Linear(kernel, jnp.zeros((count, classes)))
        rates[span] = np.array([cells[i][1:] for i in members], np.float32)  # [C, 2]
    # A list, not the dict: keys of a pytree's dict are sorted, and slices are static.
    spans = tuple(places)
    state = [classifiers[span] for span in spans]
    state = jax.device_put((state, jax.tree.map(jnp.zeros_like, state)), whole)
    table = jax.device_put([rates[span] for span in spans], whole)
    done = 0
    with jax.set_mesh(mesh):
        for done, batch in enumerate(itertools.islice(batches, steps), start=1):
            share = np.float32(0.5 + 0.5 * np.cos(np.pi * (done - 1) / steps))
            state = _step(state, batch, table, share, spans=spans)
    if done < steps:
        raise ValueError(f"the batches ended after {done} steps, wanted {steps}")
    return Trained(dict(zip(spans, state[0])), places)


def cell_ranks(trained: Trained, features: jax.Array, labels: jax.Array) -> jax.Array:
    """``metrics.ranks`` of each cell on features [B, F]: int [B, cells], in the grid's order."""
    found = _ranks(
        [trained.classifiers[span] for span in trained.places],
        features,
        labels,
        spans=tuple(trained.places),
    )
    order = np.argsort(np.concatenate(list(trained.places.values())))
    return found[:, order]


def logits(features: jax.Array, span: tuple[int, int], classifier: Linear) -> jax.Array:
    """Features [B, F] -> [B, C, K], or [B, K] of a single classifier."""
    x = features[:, span[0] : span[1]]
    kernel, bias = classifier
    # "highest": TPUs and recent GPUs would round the inputs, the protocol is float32.
    out = jnp.dot(x, kernel.reshape(len(kernel), -1), precision="highest")
    return out.reshape(len(x), *kernel.shape[1:]) + bias


@functools.partial(jax.jit, static_argnames="spans", donate_argnums=0)
def _step(state, batch: Batch, rates, share, *, spans):
    classifiers, momenta = state

    def loss(classifiers):
        total = jnp.float32(0)
        for span, classifier in zip(spans, classifiers):
            scores = logits(batch.features, span, classifier)  # [B, C, K]
            labels = jnp.broadcast_to(batch.labels[:, None], scores.shape[:2])
            losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)  # [B, C]
            total += (batch.weights @ losses).sum() / batch.weights.sum()
        return total

    gradients = jax.grad(loss)(classifiers)

    def update(p, m, g, lr, decay):
        m = MOMENTUM * m + g + decay * p
        return p - share * lr * m, m

    moved = []
    for c, m, g, rate in zip(classifiers, momenta, gradients, rates):
        lr, decay = rate[:, :1], rate[:, 1:]  # [C, 1]
        moved.append([update(*leaves, lr, decay) for leaves in zip(c, m, g)])
    return tuple([Linear(*(leaf[i] for leaf in leaves)) for leaves in moved] for i in (0, 1))


@functools.partial(jax.jit, static_argnames="spans")
def _ranks(classifiers, features, labels, *, spans):
    found = []
    for span, classifier in zip(spans, classifiers):
        scores = logits(features, span, classifier)
        found.append(ranks(scores, jnp.broadcast_to(labels[:, None], scores.shape[:2])))
    return jnp.concatenate(found, axis=1)
