"""Pictures of a classifier: the curve of what was tried, and its most certain mistakes."""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dinov3_jax.evals.evaluation import Picture

_SIDE = 256  # pixels, at most, of the longer side of a photograph


def chart(rates: Sequence[float], curves: Mapping[str, np.ndarray], *, caption: str) -> Picture:
    """Percent over learning rates, one line each of ``curves``: values [rates]."""
    figure = Figure(figsize=(5.12, 3.2), dpi=100, layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(rates, values, marker="o", markersize=3, label=name)
    axes.set(xscale="log", xlabel="learning rate", ylabel="top-1, %")
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


def _small(image):
    drawn = Image.fromarray(image)
    drawn.thumbnail((_SIDE, _SIDE))
    return np.asarray(drawn)
