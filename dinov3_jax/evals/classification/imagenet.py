"""A linear probe of ImageNet-1k, and how it holds on the other test sets of its classes.

One classifier is trained on train/ and chosen on val/ (``linear.py``), then scored, as it is, on
every set found. The defaults are the paper's protocol (arXiv 2508.10104, appendix D.7): CLS alone,
512 pixels. Where a set has a part of the classes (R, A, ObjectNet), the others cannot be predicted.
"""

import dataclasses
import os

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.data.benchmarks import imagenet
from dinov3_jax.data.benchmarks.classification import open_classification
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.classification import linear, metrics
from dinov3_jax.evals.evaluation import Result
from dinov3_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class ImagenetSettings(linear.LinearSettings):
    """As ``LinearSettings``; then where each set lies below ``data``. What is not there is left
    out."""

    pooling: tuple[bool, ...] = (False,)
    lrs: tuple[float, ...] = (
        1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    )  # fmt: skip
    weight_decays: tuple[float, ...] = (0.0, 1e-5)
    resize: int = 512
    crop: int = 512
    real: str = "real.json"  # label lists of val/
    v2: str = "imagenetv2-matched-frequency-format-val"  # folders 0 .. 999
    r: str = "imagenet-r"  # folders of 200 wnids
    a: str = "imagenet-a"  # folders of 200 wnids
    sketch: str = "sketch"  # folders of wnids
    c: str = "imagenet-c"  # CORRUPTION/1 .. 5/WNID; images are resized to ``crop`` alone
    objectnet: str = "objectnet"  # class folders, red frames on
    objectnet_mapping: str = "objectnet.json"  # class folder -> list of wnids


def evaluate(model: Model, settings: ImagenetSettings, mesh: Mesh) -> Result:
    """Metrics: those of ``linear.evaluate``, and ``real/any_match``, ``v2/top1``, ``r/top1``,
    ``a/top1``, ``sketch/top1``, ``objectnet/top1``; ``c/mce`` (100 is AlexNet, lower is better)
    with ``c/error/CORRUPTION``, the mean error of its 5 levels."""
    root = os.path.abspath(os.path.expanduser(settings.data))
    there = {
        name: os.path.join(root, getattr(settings, name))
        for name in ("real", "v2", "r", "a", "sketch", "c", "objectnet")
        if getattr(settings, name) and os.path.exists(os.path.join(root, getattr(settings, name)))
    }
    if not there:
        raise SourceError(
            f"none of the other test sets is in {root}, wanted {settings.v2}, {settings.r} .. "
            "beside train/ and val/; the evaluation linear takes train/ and val/ alone"
        )
    # All are opened before anything is trained: what is wrong with them shows in seconds.
    data = open_classification(settings.data)
    classes, splits = data.classes, {}
    if "v2" in there:
        splits["v2"] = imagenet.open_v2(there["v2"], classes)
    for name in ("r", "a", "sketch"):
        if name in there:
            splits[name] = imagenet.open_wnids(there[name], classes)
    real = imagenet.open_real(there["real"], data.test, classes) if "real" in there else None
    objectnet = None
    if "objectnet" in there:
        mapping = os.path.join(root, settings.objectnet_mapping)
        objectnet = imagenet.open_objectnet(there["objectnet"], mapping, classes)
    if "c" in there:
        imagenet.check_corruptions(there["c"], tuple(metrics.ALEXNET))

    head = linear.fit(model, settings, data, mesh)
    found = linear.scores(head, data.test, settings, mesh)
    result = linear.result(head, found, data, settings)
    row = dict(result.metrics)
    if real is not None:
        row["real/any_match"] = metrics.any_match(found, real)
    for name, split in splits.items():
        scores = linear.scores(head, split, settings, mesh)
        if name in ("r", "a"):
            scores = metrics.restrict(scores, np.unique(split.labels).tolist())
        row[f"{name}/top1"] = metrics.accuracy(scores, split.labels)
    if objectnet is not None:
        split, right = objectnet
        scores = linear.scores(head, split, settings, mesh)
        scores = metrics.restrict(scores, sorted({label for labels in right for label in labels}))
        row["objectnet/top1"] = metrics.any_match(scores, right)
    if "c" in there:
        row |= _corruptions(there["c"], classes, head, settings, mesh)
    return Result(row, result.pictures)


def _corruptions(folder, classes, head, settings, mesh):
    plain = dataclasses.replace(settings, resize=settings.crop)  # they come at 224 pixels, cropped
    accuracies = {}
    for name in metrics.ALEXNET:
        accuracies[name] = []
        for level in imagenet.LEVELS:
            split = imagenet.open_wnids(os.path.join(folder, name, level), classes)
            scores = linear.scores(head, split, plain, mesh)
            accuracies[name].append(metrics.accuracy(scores, split.labels))
    row = {"c/mce": metrics.mean_corruption_error(accuracies)}
    errors = {name: 100.0 - float(np.mean(levels)) for name, levels in accuracies.items()}
    return row | {f"c/error/{name}": error for name, error in errors.items()}
