"""Pictures of a classifier: the curve of what was tried, and its most certain mistakes."""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dinov3_jax.evals.evaluation import Picture

_SIDE = 256  # pixels, at most, of the longer side of a photograph


def chart(
    tried: Sequence[float],
    curves: Mapping[str, Sequence[float] | np.ndarray],
    *,
    caption: str,
    x: str = "learning rate",
    y: str = "top-1, %",
) -> Picture:
    """Percent over the values ``tried`` of one setting, one line each of ``curves``."""
    figure = Figure(figsize=(5.12, 3.2), dpi=100, layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(tried, values, marker="o", markersize=3, label=name)
    axes.set(xscale="log", xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Picture(caption, np.asarray(Image.open(file).convert("RGB")))


def mistakes(
    scores: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    image: Callable[[int], np.ndarray],
    *,
    count: int = 4,
) -> tuple[Picture, ...]:
    """The images that are wrong with the highest probability, ``count`` at most.

    scores [n, K] are logits, labels int [n]; ``image`` gives the pixels uint8 [h, w, 3] of one.
    """
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    probability = shifted / shifted.sum(axis=1, keepdims=True)
    predicted = scores.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    sure = probability[wrong, predicted[wrong]]
    shown = wrong[np.argsort(-sure, kind="stable")[:count]]
    return tuple(
        Picture(
            f"{classes[labels[i]]}, taken for {classes[predicted[i]]} "
            f"(probability {probability[i, predicted[i]]:.2f})",
            _small(image(i)),
        )
        for i in map(int, shown)
    )


def false_alarms(
    scores: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    image: Callable[[int], np.ndarray],
    *,
    count: int = 4,
) -> tuple[Picture, ...]:
    """The images that are given a class they lack with the highest probability, ``count`` at most,
    each once.

    scores [n, K] are log-odds, labels int [n, K]: 1 present, 0 absent, -1 does not count; ``image``
    gives the pixels uint8 [h, w, 3] of one.
    """
    odds = np.where(labels == 0, scores, -np.inf)
    given, sure = odds.argmax(axis=1), odds.max(axis=1)
    shown = [i for i in map(int, np.argsort(-sure, kind="stable")[:count]) if sure[i] > 0]
    made = []
    for i in shown:
        present = [name for name, there in zip(classes, labels[i], strict=True) if there == 1]
        caption = (
            f"{', '.join(present) or 'no class'}, taken for {classes[int(given[i])]} "
            f"(probability {1 / (1 + np.exp(-sure[i])):.2f})"
        )
        made.append(Picture(caption, _small(image(i))))
    return tuple(made)


def _small(image):
    drawn = Image.fromarray(image)
    drawn.thumbnail((_SIDE, _SIDE))
    return np.asarray(drawn)
