"""``spair``: semantic correspondence on SPair-71k, PCK at .1 of the object's box.

The feature of a keypoint in the source is compared with all patches of the target. Source: Min et
al., arXiv 1908.10543; the way of Probe3D (El Banani et al., arXiv 2404.08636); DINOv3 appendix D.3.
"""

import collections
import dataclasses
import os

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.images import read_image
from dinov3_jax.data.benchmarks.spair import Pair, open_spair
from dinov3_jax.data.bicubic import resize
from dinov3_jax.data.in_order import in_order
from dinov3_jax.evals.correspondence.keypoints import best_patches
from dinov3_jax.evals.correspondence.picture import GREEN, RED, draw_matches
from dinov3_jax.evals.evaluation import Picture, Result
from dinov3_jax.features.extract import check_side, extractor, whole_batch
from dinov3_jax.models.model import Model

SHOWN = 3  # best pairs, and worst pairs
LONGEST = 512  # pixels of a picture


@dataclasses.dataclass(frozen=True)
class SPairSettings:
    data: str  # folder with PairAnnotation/ and JPEGImages/
    split: str = "test"  # or "val", "trn"
    size: int = 1024  # pixels a side; images are made square by white at the right and below
    alpha: float = 0.1  # error that counts as found, of the long side of the target's box
    layer: int | None = None  # 0-based block, None the last; after the final norm
    batch: int = 8  # images


def evaluate(model: Model, settings: SPairSettings, mesh: Mesh) -> Result:
    """``pck`` in percent, the mean over categories of ``pck/CATEGORY``, which are over keypoints.

    The features of one category's images are in memory at a time.
    """
    check_side(model, settings.size, "size")
    if settings.alpha <= 0:
        raise ConfigError(f"alpha is {settings.alpha}, wanted above 0")
    data = open_spair(settings.data, split=settings.split)
    layers = None if settings.layer is None else (settings.layer,)
    extract = extractor(model, mesh, tokens="patch", layers=layers, batch=settings.batch)
    grouped = collections.defaultdict(list)
    for pair in data.pairs:
        grouped[pair.category].append(pair)
    metrics, scored = {}, []
    for category, pairs in sorted(grouped.items()):
        names = sorted({name for pair in pairs for name in (pair.a, pair.b)})
        tokens, sides = _features(extract, data.images, names, settings.size, mesh, settings.batch)
        hits = []
        for pair in pairs:
            found = locate(tokens[pair.a], tokens[pair.b], pair, sides[pair.a], sides[pair.b])
            hits.append(errors(found, pair) < settings.alpha)
            scored.append((pair, found, hits[-1]))
        metrics[f"pck/{category}"] = 100 * float(np.concatenate(hits).mean())
    pck = float(np.mean(list(metrics.values())))
    scored.sort(key=lambda entry: -entry[2].mean())
    shown = scored[:SHOWN] + scored[max(SHOWN, len(scored) - SHOWN) :]
    pictures = tuple(_picture(data.images, *entry) for entry in shown)
    return Result({"pck": pck} | metrics, pictures)


def locate(
    tokens_a: np.ndarray, tokens_b: np.ndarray, pair: Pair, side_a: int, side_b: int
) -> np.ndarray:
    """Where the keypoints of the source are found in the target, x and y in its pixels: [k, 2].

    ``tokens_*`` [h, w, D] of the squares of ``side_*`` pixels that the images were filled up to.
    Point and patch are mapped as Probe3D does: x of s pixels is x / s (w - 1) on the source's grid,
    and column j of the target stands for x = j s / w, without half a patch.
    """
    h, w = tokens_a.shape[:2]
    x, y = pair.points_a.T / side_a
    row, column = best_patches(tokens_a, x * (w - 1), y * (h - 1), tokens_b)
    return np.stack([column / tokens_b.shape[1], row / tokens_b.shape[0]], axis=1) * side_b


def errors(found: np.ndarray, pair: Pair) -> np.ndarray:
    """Distance [k] of ``found`` [k, 2] from the true points, over the long side of the box."""
    scale = (pair.box_b[2:] - pair.box_b[:2]).max()
    return np.linalg.norm(found - pair.points_b, axis=1) / scale


def _features(extract, folder, names, size, mesh, batch):
    """({name: tokens [h, w, D]}, {name: side of its square in pixels}) of images."""

    def load(name):
        image = read_image(os.path.join(folder, name))
        side = max(image.shape[:2])
        square = np.full((side, side, 3), 255, np.uint8)
        square[: image.shape[0], : image.shape[1]] = image
        return resize(square, size, size), side

    tokens, sides, waiting = {}, {}, []

    def compute():
        (made,) = extract(np.stack([image for _, image in waiting])).values()
        tokens.update(zip((name for name, _ in waiting), made))
        waiting.clear()

    together = whole_batch(batch, mesh)
    for name, (image, side) in zip(names, in_order(load, names, ahead=2 * together)):
        sides[name] = side
        waiting.append((name, image))
        if len(waiting) == together:
            compute()
    if waiting:
        compute()
    return tokens, sides


def _picture(folder, pair, found, hits):
    a, b = (read_image(os.path.join(folder, name)) for name in (pair.a, pair.b))
    colours = np.where(hits[:, None], GREEN, RED)
    drawn = draw_matches(a, b, pair.points_a, found, colours, longest=LONGEST)
    return Picture(f"{pair.category}: {hits.sum()} of {len(hits)} keypoints found (green)", drawn)
