"""``matches``: points of one's own that show the same thing in two images."""

import dataclasses

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.images import read_image
from dinov3_jax.data.benchmarks.matches import Pair, open_matches
from dinov3_jax.data.bicubic import on_grid
from dinov3_jax.data.in_order import in_order
from dinov3_jax.data.record import SourceError
from dinov3_jax.evals.correspondence.keypoints import best_patches
from dinov3_jax.evals.correspondence.picture import GREEN, RED, draw_matches
from dinov3_jax.evals.evaluation import Picture, Result
from dinov3_jax.features.extract import extractor
from dinov3_jax.models.model import Model

SHOWN = 3  # best pairs, and worst pairs
LONGEST, LINES = 512, 40  # pixels and points of a picture


@dataclasses.dataclass(frozen=True)
class MatchesSettings:
    data: str  # CSV file: image_a,image_b,xa,ya,xb,yb
    longest: int = 512  # pixels of the long side at most; each side goes to the nearest patch
    alpha: float = 0.1  # error that counts as found, of image b's long side
    pixels: tuple[float, ...] = ()  # errors that count as found, too, in pixels of image b
    layer: int | None = None  # 0-based block, None the last; after the final norm


def evaluate(model: Model, settings: MatchesSettings, mesh: Mesh) -> Result:
    """``pck`` at ``alpha`` and ``pck@Npx`` in percent of all points, and their median ``error`` in
    pixels of image b, whose patches bound how small it can be."""
    if min(settings.alpha, *settings.pixels, 1.0) <= 0:
        raise ConfigError(f"alpha {settings.alpha}, pixels {settings.pixels}; wanted all above 0")
    pairs = open_matches(settings.data)
    layers = None if settings.layer is None else (settings.layer,)
    extract = extractor(model, mesh, tokens="patch", layers=layers, batch=1)
    found, errors, longest = [], [], []

    def tokens(image):
        fitted = on_grid(image, settings.longest, stride=model.stride)
        (made,) = extract(fitted[None]).values()
        return made[0]

    for pair, (a, b) in zip(pairs, in_order(_read, pairs, ahead=4)):
        found.append(locate(tokens(a), tokens(b), pair.points_a, a.shape[:2], b.shape[:2]))
        errors.append(np.linalg.norm(found[-1] - pair.points_b, axis=1))
        longest.append(max(b.shape[:2]))
    metrics = score(errors, longest, alpha=settings.alpha, pixels=settings.pixels)
    share = [np.median(error) / side for error, side in zip(errors, longest)]
    order = np.argsort(share, kind="stable")
    shown = dict.fromkeys([*order[:SHOWN], *order[-SHOWN:]])
    pictures = (_picture(pairs[i], found[i], errors[i], settings.alpha * longest[i]) for i in shown)
    return Result(metrics, tuple(pictures))


def locate(
    tokens_a: np.ndarray,
    tokens_b: np.ndarray,
    points_a: np.ndarray,
    size_a: tuple[int, int],
    size_b: tuple[int, int],
) -> np.ndarray:
    """Centres, x and y in pixels of image b [k, 2], of the patches most like ``points_a`` [k, 2].

    ``tokens_*`` [h, w, D] cover images of ``size_*`` (height, width).
    """
    (h, w), (H, W) = tokens_a.shape[:2], tokens_b.shape[:2]
    x, y = points_a[:, 0] / size_a[1] * w - 0.5, points_a[:, 1] / size_a[0] * h - 0.5
    row, column = best_patches(tokens_a, x, y, tokens_b)
    return np.stack([(column + 0.5) / W * size_b[1], (row + 0.5) / H * size_b[0]], axis=1)


def score(
    errors: list[np.ndarray],
    longest: list[int],
    *,
    alpha: float,
    pixels: tuple[float, ...],
) -> dict[str, float]:
    """``errors`` [k] in pixels of each pair, and the long side of its image b -> metrics."""
    distance = np.concatenate(errors)
    relative = np.concatenate([error / side for error, side in zip(errors, longest)])
    metrics = {"pck": 100 * float((relative <= alpha).mean())}
    metrics |= {f"pck@{p:g}px": 100 * float((distance <= p).mean()) for p in pixels}
    return metrics | {"error": float(np.median(distance)), "points": float(len(distance))}


def _read(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    a, b = read_image(pair.a), read_image(pair.b)
    for file, image, points in ((pair.a, a, pair.points_a), (pair.b, b, pair.points_b)):
        limit = np.array([image.shape[1], image.shape[0]])
        outside = ((points < 0) | (points > limit)).any(axis=1)
        if outside.any():
            raise SourceError(
                f"the point {points[outside][0].tolist()} (x, y) lies outside {file}, which is "
                f"{limit[0]} pixels wide and {limit[1]} high"
            )
    return a, b


def _picture(pair, found, error, limit):
    a, b = read_image(pair.a), read_image(pair.b)
    some = np.unique(np.linspace(0, len(found) - 1, min(LINES, len(found))).round().astype(int))
    colours = np.where((error <= limit)[some, None], GREEN, RED)
    drawn = draw_matches(a, b, pair.points_a[some], found[some], colours, longest=LONGEST)
    caption = (
        f"{pair.a.name} to {pair.b.name}: median error {np.median(error):.1f} pixels; green lines "
        f"end within {limit:.0f}"
    )
    return Picture(caption, drawn)
