"""Object discovery by TokenCut: one box an image, without any training. DINOv3, appendix D.4."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh
from PIL import Image, ImageDraw

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.boxes import open_boxes
from dinov3_jax.data.fit import fit
from dinov3_jax.data.in_order import in_order
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.discovery.normalized_cut import eigenvectors, salient_box
from dinov3_jax.evals.evaluation import Picture, Result
from dinov3_jax.features.extract import extractor, whole_batch
from dinov3_jax.models.model import Model

SHOWN = 4  # of the best images, and of the worst
PATCHES = 20_000  # of an image; their graph takes 1.6 GB


@dataclasses.dataclass(frozen=True)
class TokenCutSettings:
    data: str
    split: str = "trainval"  # of VOC; other layouts have none
    # Cosines above which patches are alike; the best one is chosen on the data itself.
    taus: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
    long_side: int | None = None  # pixels; larger images are scaled down; None: full resolution
    batch: int = 8  # images of one size through the model at once


def evaluate(model: Model, settings: TokenCutSettings, mesh: Mesh) -> Result:
    """``corloc``, percent of images whose box has an IoU of at least 0.5 with one of the true ones.

    It is the best over ``settings.taus``, as published, reached at ``tau``; ``corloc_tau_0.20`` ...
    are all of them. Of ``images``; ``images_without_box`` were left out. Compiled for every size of
    images that there is.
    """
    if not settings.taus:
        raise ConfigError("taus are empty, wanted at least one cosine")
    data = open_boxes(settings.data, settings.split)
    chosen = [i for i in range(len(data)) if len(data.boxes[i])]
    if not chosen:
        raise SourceError(f"no image of {settings.data} has a box")
    found = dict(_boxes(model, data, chosen, settings, mesh))
    overlaps = np.array([[ious(box, data.boxes[i]).max() for box in found[i]] for i in chosen])
    corloc = 100 * (overlaps >= 0.5).mean(axis=0)
    best = int(np.argmax(corloc))
    metrics = {"corloc": corloc[best], "tau": settings.taus[best]}
    metrics |= {f"corloc_tau_{tau:.2f}": x for tau, x in zip(settings.taus, corloc)}
    metrics |= {"images": len(chosen), "images_without_box": len(data) - len(chosen)}
    order = np.argsort(overlaps[:, best], kind="stable")
    shown = order if len(order) <= 2 * SHOWN else [*order[:SHOWN], *order[-SHOWN:]]
    return Result(
        {name: float(value) for name, value in metrics.items()},
        tuple(
            _picture(data, chosen[row], found[chosen[row]][best], overlaps[row, best])
            for row in shown
        ),
    )


def ious(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box [4] with others [m, 4], float64 [m]; x0, y0, x1, y1."""
    area = lambda b: np.prod(np.maximum(b[..., 2:] - b[..., :2], 0), axis=-1)  # noqa: E731
    corners = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = area(np.concatenate(corners, axis=1))
    return shared / (area(box) + area(boxes) - shared)


def _boxes(model, data, chosen, settings, mesh) -> Iterator[tuple[int, np.ndarray]]:
    """(image, float64 [taus, 4] in its own pixels), those of one size together."""
    extract = extractor(model, mesh, tokens="patch", batch=settings.batch)
    size = whole_batch(settings.batch, mesh)
    fill = tuple(round(255 * x) for x in model.mean)  # nearly 0 for the model
    waiting = {}  # shape -> [(image, fitted, its own size)]

    def flush(shape):
        group = waiting.pop(shape)
        tokens = extract(np.stack([fitted.pixels for _, fitted, _ in group]))["patch_tokens"]
        for (i, fitted, own), grid in zip(group, tokens):
            h, w, D = grid.shape
            vectors = eigenvectors(grid.reshape(h * w, D), settings.taus)
            boxes = [salient_box(x.reshape(h, w), stride=model.stride) for x in vectors]
            # What was padded is cut off, what was scaled is scaled back.
            limits = np.array([fitted.width, fitted.height] * 2)
            yield i, np.minimum(boxes, limits) * (np.array([own[1], own[0]] * 2) / limits)

    for i, image in zip(chosen, in_order(data.image, chosen, ahead=2 * size)):
        own = image.shape[:2]
        image = _shrunk(image, settings.long_side)
        fitted = fit(image, None, how="pad", stride=model.stride, fill=fill)
        shape = fitted.pixels.shape
        _check_patches(shape, model.stride, data.files[i])
        waiting.setdefault(shape, []).append((i, fitted, own))
        if len(waiting[shape]) == size:
            yield from flush(shape)
    for shape in list(waiting):
        yield from flush(shape)


def _shrunk(image, long_side):
    if long_side is None or max(image.shape[:2]) <= long_side:
        return image
    if long_side < 1:
        raise ConfigError(f"long_side is {long_side} pixels, wanted at least 1, or None")
    picture = Image.fromarray(image)
    picture.thumbnail((long_side, long_side), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _check_patches(shape, stride, file):
    patches = shape[0] * shape[1] // stride**2
    if not 2 <= patches <= PATCHES:
        raise SourceError(
            f"{file} has {patches} patches, of {stride} pixels a side; wanted 2 to {PATCHES}: "
            f"leave it out, or set long_side to at most {int(stride * PATCHES**0.5)}"
        )


def _picture(data, index, box, overlap):
    image = Image.fromarray(data.image(index))
    scale = min(1.0, 512 / max(image.size))
    image = image.resize([max(1, round(side * scale)) for side in image.size])
    draw = ImageDraw.Draw(image)
    for rows, colour in ((data.boxes[index], (255, 255, 255)), ([box], (255, 60, 30))):
        for row in rows:
            x0, y0, x1, y1 = (float(x) * scale for x in row)
            draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=2)
    caption = (
        f"{data.files[index].rpartition('/')[2]}: found in red, true in white, IoU {overlap:.2f}"
    )
    return Picture(caption, np.asarray(image))
