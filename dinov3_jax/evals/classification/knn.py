"""Cosine k-nearest-neighbour classification: what a frozen feature knows, with nothing trained."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.curation.neighbours import nearest
from dinov3_jax.data.benchmarks.classification import Classification, open_classification
from dinov3_jax.data.centre_crop import centre_crop
from dinov3_jax.evals.classification import few_shot
from dinov3_jax.evals.classification.arrays import check_features, check_labels
from dinov3_jax.evals.classification.features import split_features
from dinov3_jax.evals.evaluation import Picture, Result
from dinov3_jax.models.model import Model

TOP = 5  # classes named for each query


@dataclasses.dataclass(frozen=True)
class KnnSettings:
    data: str  # layouts: data/benchmarks/classification.py
    resize: int = 256  # pixels of the short side, bicubic
    crop: int = 224  # pixels, the centre
    neighbours: tuple[int, ...] = (10, 20, 100, 200)  # k; those above the bank become its size
    temperature: float = 0.07
    skip_first: bool = False  # the nearest image does not vote: for a bank that holds the queries
    shots: float | None = None  # training images a class that vote; below 1 a share; None: all
    draws: int = 5  # of few shots, seeds 0, 1, ...: mean and standard deviation
    batch: int = 64  # images a forward


def evaluate(model: Model, settings: KnnSettings, mesh: Mesh) -> Result:
    """Test images classified by the training images; CLS after the final norm.

    ``top1_K`` and ``top5_K``, percent, for each k; ``top1`` is the best of them, ``top5`` that of
    the same k. With ``shots`` means over the draws, and ``*_std``.
    """
    data = open_classification(settings.data)
    subsets = few_shot.subsets(data.train.labels, settings.shots, settings.draws)
    bank, queries = (
        split_features(
            model, mesh, split, resize=settings.resize, crop=settings.crop, batch=settings.batch
        )
        for split in (data.train, data.test)
    )

    def score(chosen):
        predicted, index = classify(
            bank[chosen],
            data.train.labels[chosen],
            queries,
            classes=len(data.classes),
            neighbours=settings.neighbours,
            temperature=settings.temperature,
            skip_first=settings.skip_first,
            mesh=mesh,
        )
        metrics = {}
        for k, classes in predicted.items():
            hit = classes == data.test.labels[:, None]  # [q, TOP]
            metrics[f"top1_{k}"] = 100.0 * float(hit[:, 0].mean())
            metrics[f"top5_{k}"] = 100.0 * float(hit.any(axis=1).mean())
        best = max(predicted, key=lambda k: metrics[f"top1_{k}"])
        best_metrics = {name: metrics[f"{name}_{best}"] for name in ("top1", "top5")}
        return best_metrics | metrics, predicted[best][:, 0], chosen[index]

    found, predicted, index = zip(*(score(chosen) for chosen in subsets))
    metrics = found[0] if settings.shots is None else few_shot.spread(found)
    return Result(metrics, _pictures(data, settings, predicted[0], index[0]))


def classify(
    bank,
    bank_labels,
    queries,
    *,
    classes: int,
    neighbours: Sequence[int],
    mesh: Mesh,
    temperature: float = 0.07,
    skip_first: bool = False,
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Classes of each query by weighted votes of its most similar bank entries, for several k.

    With ``s_i = cos(query, bank_i)``, T the largest K = max(neighbours) of them in falling order
    and ``w = softmax(s_T / temperature)``, class c scores ``sum_{i < k, label_i = c} w_i``.

    Args:
      bank: [m, D] float, features that vote. Any scale: cosine ignores length.
      bank_labels: [m] int in [0, classes).
      queries: [q, D] float.
      neighbours: each k, at least 1; one above the number of entries that can vote becomes it.
      mesh: all its devices share the bank; the result does not depend on how many.
      temperature: positive; small values let the nearest neighbour decide.
      skip_first: the most similar entry of each query has no vote.

    Returns:
      k -> int32 [q, min(TOP, classes)]: classes by falling score, the lower number first on a tie,
      -1 where no further class has a vote; and the entries found, int32 [q, K]. Products are
      float32, the votes float64.

    Raises:
      ConfigError: no k, a k or temperature that is not positive, a bank of one image to skip.
      ValueError: nothing to search, mismatched shapes, labels out of range, non-finite features.
    """
    bank = check_features("the bank", bank).astype(np.float32, copy=False)
    queries = check_features("queries", queries).astype(np.float32, copy=False)
    labels = check_labels("bank_labels", bank_labels, len(bank), classes)
    if not neighbours or min(neighbours) < 1 or temperature <= 0:
        raise ConfigError(
            f"got k = {neighbours}, temperature = {temperature}; wanted k >= 1, both positive"
        )
    voters = len(bank) - skip_first
    if voters < 1:
        raise ConfigError("the bank has 1 image and skip_first is on; wanted at least 2 images")
    kept = sorted({min(k, voters) for k in neighbours})
    index, cosine = nearest(queries, bank, kept[-1] + skip_first, mesh=mesh)
    index, cosine = index[:, skip_first:].copy(), cosine[:, skip_first:]
    weights = np.exp((cosine - cosine[:, :1]).astype(np.float64) / temperature)  # [q, K]
    ranked = {k: _rank(weights[:, :k], labels[index[:, :k]], classes) for k in kept}
    return ranked, index


def accuracy(
    bank, bank_labels, queries, query_labels, *, classes: int, k: int, mesh: Mesh
) -> float:
    """Top-1 accuracy of ``classify`` in percent, 0 to 100; ``query_labels`` [q] as bank_labels."""
    expected = check_labels("query_labels", query_labels, len(queries), classes)
    predicted, _ = classify(bank, bank_labels, queries, classes=classes, neighbours=(k,), mesh=mesh)
    (best,) = predicted.values()
    return 100.0 * float(np.mean(best[:, 0] == expected))


def _rank(weights, labels, classes):
    """Weights and labels [q, k] of those who vote -> the best TOP classes, int32.

    The softmax is left without its denominator, which changes no order.
    """
    best = []
    for start in range(0, len(labels), 1024):  # bounds the scores to 1024 x classes
        some = labels[start : start + 1024]
        cell = np.arange(len(some))[:, None] * classes + some
        scores = np.bincount(
            cell.ravel(), weights[start : start + 1024].ravel(), len(some) * classes
        ).reshape(len(some), classes)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
        voted = np.take_along_axis(scores, order, axis=1) > 0
        best.append(np.where(voted, order, -1).astype(np.int32))
    return np.concatenate(best)


def _pictures(data: Classification, settings: KnnSettings, predicted, index) -> tuple[Picture, ...]:
    """Some wrong and some right queries, each beside the images nearest to it."""
    right = predicted == data.test.labels
    shown = [*_spaced(np.flatnonzero(~right), 4), *_spaced(np.flatnonzero(right), 2)]
    side = min(settings.crop, 96)

    def tile(split, i):
        return centre_crop(split.image(int(i)), resize=side, crop=side)

    pictures = []
    for i in shown:
        voters = index[i, :4]
        nearest_classes = ", ".join(data.classes[label] for label in data.train.labels[voters])
        own, taken = data.classes[data.test.labels[i]], data.classes[predicted[i]]
        judged = f"right: {own}" if right[i] else f"wrong: {own}, taken for {taken}"
        caption = f"{judged}. First the query, then the nearest: {nearest_classes}"
        tiles = [tile(data.test, i), *(tile(data.train, j) for j in voters)]
        pictures.append(Picture(caption, np.concatenate(tiles, axis=1)))
    return tuple(pictures)


def _spaced(indices, most):
    """At most ``most`` of them, from all over: those of one class lie side by side."""
    places = np.linspace(0, len(indices) - 1, min(most, len(indices)))
    return indices[places.round().astype(int)]
