"""Cosine k-nearest-neighbour classification: what a frozen feature knows, with nothing trained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

CHUNK = 256  # queries scored at once: bounds the similarity matrix to 256 x m floats


def knn_predict(bank, bank_labels, queries, *, classes, k, temperature=0.07):
    """Class of each query by a weighted vote of its k most similar bank entries.

    With ``s_i = cos(query, bank_i)`` and T the k largest, class c scores
    ``sum_{i in T, label_i = c} softmax_T(s / temperature)_i``; the largest score wins, the lower
    class number on a tie.

    Args:
      bank: [m, D] float, features that vote. Any scale: cosine ignores length.
      bank_labels: [m] int in [0, classes).
      queries: [q, D] float.
      classes: number of classes.
      k: neighbours, at least 1; a k above m is taken as m.
      temperature: positive; small values let the nearest neighbour decide.

    Returns:
      numpy int32 [q]. All arithmetic is float32.

    Raises:
      ValueError: empty bank, mismatched shapes, labels out of range, non-finite features.
    """
    bank = _features("bank", bank)  # [m, D]
    queries = _features("queries", queries)  # [q, D]
    if len(bank) == 0:
        raise ValueError("the bank has 0 images, wanted at least 1; check the path of the bank")
    if bank.shape[1] != queries.shape[1]:
        raise ValueError(
            f"bank has width D = {bank.shape[1]}, queries have {queries.shape[1]}; "
            "take both from the same model"
        )
    if k < 1 or temperature <= 0:
        raise ValueError(f"got k = {k}, temperature = {temperature}; wanted k >= 1, both positive")
    labels = _labels("bank_labels", bank_labels, len(bank), classes)
    count = len(queries)
    if count == 0:
        return np.zeros((0,), np.int32)
    chunk = min(CHUNK, count)
    tiles = -(-count // chunk)
    queries = np.pad(queries, ((0, tiles * chunk - count), (0, 0)))
    predicted = _predict_tiles(
        bank,
        labels,
        queries.reshape(tiles, chunk, -1),
        np.float32(temperature),
        classes=int(classes),
        k=min(int(k), len(bank)),
    )
    return np.asarray(predicted).reshape(-1)[:count]


def knn_accuracy(
    bank, bank_labels, queries, query_labels, *, classes, k, temperature=0.07
) -> float:
    """Top-1 accuracy of ``knn_predict`` in percent, 0 to 100.

    Arguments and errors as ``knn_predict``; ``query_labels`` is [q] int in [0, classes), q >= 1.
    """
    expected = _labels("query_labels", query_labels, len(queries), classes)
    if len(expected) == 0:
        raise ValueError("there are 0 queries, wanted at least 1; check the path of the queries")
    predicted = knn_predict(
        bank, bank_labels, queries, classes=classes, k=k, temperature=temperature
    )
    return 100.0 * float(np.mean(predicted == expected))


@functools.partial(jax.jit, static_argnames=("classes", "k"))
def _predict_tiles(bank, labels, tiles, temperature, *, classes, k):
    bank = _unit(bank)  # [m, D]

    def predict(queries):  # [t, D]
        # "highest": TPUs and recent GPUs would round the inputs, and near ties change sides.
        similarity = jnp.matmul(_unit(queries), bank.T, precision="highest")  # [t, m]
        top, index = jax.lax.top_k(similarity, k)  # [t, k]
        weights = jax.nn.softmax(top / temperature, axis=-1)
        votes = jax.nn.one_hot(labels[index], classes, dtype=jnp.float32)  # [t, k, classes]
        return jnp.argmax(jnp.einsum("tk,tkc->tc", weights, votes), axis=-1).astype(jnp.int32)

    return jax.lax.map(predict, tiles)  # [tiles, t]


def _unit(x):
    """Rows of length 1; a zero row stays zero, at cosine 0 to everything."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _features(name, x):
    x = np.asarray(x, np.float32)
    if x.ndim != 2:
        raise ValueError(f"{name} has shape {x.shape}, wanted [images, D]")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x).all(axis=1)).sum())
        raise ValueError(
            f"{name}: {bad} of {len(x)} rows are not finite; "
            "the model has diverged, use an earlier checkpoint"
        )
    return x


def _labels(name, labels, count, classes):
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise ValueError(f"{name} has shape {labels.shape}, wanted one label an image: ({count},)")
    if count and not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} has dtype {labels.dtype}, wanted integers")
    if count and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"{name} span {labels.min()} to {labels.max()}, wanted 0 to {classes - 1}; "
            "raise classes or renumber the labels"
        )
    return labels.astype(np.int32)
