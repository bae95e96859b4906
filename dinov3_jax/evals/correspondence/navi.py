"""``navi``: geometric correspondence between views of one object, in centimetres.

Points of one view, seen where depth is known, are matched to the points of another by their
features; the surest matches are moved by the known pose, and how far they land from their partner
is their error. Source: Probe3D (El Banani et al., arXiv 2404.08636); DINOv3 appendix D.3.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.curation.neighbours import nearest
from dinov3_jax.data.benchmarks.navi import View, open_navi
from dinov3_jax.data.bicubic import resize
from dinov3_jax.data.in_order import in_order
from dinov3_jax.data.record import SourceError
from dinov3_jax.evals.correspondence.geometry import angle, move, unproject
from dinov3_jax.evals.correspondence.match import centres
from dinov3_jax.evals.correspondence.picture import GREEN, RED, draw_matches
from dinov3_jax.evals.evaluation import Picture, Result
from dinov3_jax.features.extract import check_layers, check_side, extractor
from dinov3_jax.models.grid import resize as resize_tokens
from dinov3_jax.models.model import Model

THRESHOLDS = (1, 2, 5)  # cm
RANKS = ("cosine", "ratio")
SHOWN, LINES, LONGEST = 2, 40, 512  # best and worst pairs; matches and pixels of a picture


@dataclasses.dataclass(frozen=True)
class NaviSettings:
    data: str  # folder with OBJECT/SCENE/annotations.json
    scenes: str = "wild_set"  # pattern of the scenes that count
    size: int = 512  # pixels a side of the square that is cut around the object
    every: int = 4  # one view in so many is matched, to a partner of its scene ...
    angle: float = 120.0  # ... whose camera is turned by this many degrees at most
    seed: int = 8  # of the choice of partners
    grid: int = 128  # points a side at which features and depth are taken
    matches: int = 1000  # the surest ones, which count
    rank: str = "cosine"  # what makes a match sure: its cosine, or Lowe's "ratio"
    layer: int | None = None  # 0-based block, None the last
    batch: int = 16  # images


class Square(NamedTuple):
    """What the model sees of a view, and where that is."""

    pixels: np.ndarray  # uint8 [size, size, 3]
    points: np.ndarray  # float32 [g, g, 3], metres on the axes of the camera; z = 0 unknown


class Matched(NamedTuple):
    a: np.ndarray  # int [m], points of the grid of the first view, row-major, the surest first
    b: np.ndarray  # int [m], of the second
    error: np.ndarray  # float64 [m], metres


def evaluate(model: Model, settings: NaviSettings, mesh: Mesh) -> Result:
    """``recall`` in percent, the mean of ``recall@1cm``, ``@2cm`` and ``@5cm`` over pairs, with the
    final norm or without, whichever is better; ``recall_norm`` and ``recall_raw`` say both.
    ``pairs`` and ``alone`` count views with and without a partner near enough."""
    check_side(model, settings.size, "size")
    if settings.rank not in RANKS:
        raise ConfigError(f"rank is {settings.rank!r}, wanted one of {', '.join(RANKS)}")
    if min(settings.every, settings.grid, settings.matches) < 1:
        raise ConfigError("every, grid and matches must be at least 1")
    pairs, alone = partners(
        open_navi(settings.data, scenes=settings.scenes),
        every=settings.every,
        limit=settings.angle,
        seed=settings.seed,
    )
    layers = check_layers(model, 1 if settings.layer is None else (settings.layer,))
    extracts = {
        name: extractor(model, mesh, tokens="patch", layers=layers, norm=norm, batch=settings.batch)
        for name, norm in (("norm", True), ("raw", False))
    }
    matched = {name: [] for name in extracts}
    together = max(1, settings.batch // 2)
    views = (view for pair in pairs for view in pair)
    squares = in_order(lambda view: cut(view, settings), views, ahead=2 * together)
    for start in range(0, len(pairs), together):
        chunk = pairs[start : start + together]
        seen = [(next(squares), next(squares)) for _ in chunk]
        images = np.stack([square.pixels for two in seen for square in two])
        for name, extract in extracts.items():
            (tokens,) = extract(images).values()
            for i, ((source, target), (a, b)) in enumerate(zip(chunk, seen)):
                moved = move(a.points.reshape(-1, 3).astype(np.float64), source, target)
                matched[name].append(
                    match_points(
                        tokens[2 * i], tokens[2 * i + 1], moved, a.points, b.points,
                        matches=settings.matches, rank=settings.rank, mesh=mesh,
                    )
                )  # fmt: skip
    recalls = {name: recall([m.error for m in found]) for name, found in matched.items()}
    best = max(recalls, key=lambda name: recalls[name]["recall"])
    metrics = recalls[best] | {f"recall_{name}": r["recall"] for name, r in recalls.items()}
    metrics |= {"pairs": float(len(pairs)), "alone": float(alone)}
    return Result(metrics, _pictures(pairs, matched[best], settings))


def partners(
    scenes: dict[str, tuple[View, ...]], *, every: int, limit: float, seed: int
) -> tuple[list[tuple[View, View]], int]:
    """(every so many-th view with a partner, how many of them have none).

    The partner is drawn from the other views of the scene at most ``limit`` degrees away. Raises
    ``SourceError`` where no view has one.
    """
    rng = np.random.default_rng(seed)
    found, alone = [], 0
    views = [(view, others) for others in scenes.values() for view in others]
    for view, others in views[::every]:
        near = [other for other in others if other is not view and angle(view, other) <= limit]
        if near:
            found.append((view, near[rng.integers(len(near))]))
        else:
            alone += 1
    if not found:
        raise SourceError(
            f"none of {alone} views has another one of its scene within {limit:g} degrees; a pair "
            "needs two"
        )
    return found, alone


def cut(view: View, settings: NaviSettings) -> Square:
    """The smallest square around the object, moved and cut back to lie within the photograph."""
    image, depth = view.pixels(), view.depth()
    known = np.argwhere(depth > 0)
    if not len(known):
        raise SourceError(f"{view.scene}, {view.file}: no pixel has a depth; get the data again")
    low, high = known.min(axis=0), known.max(axis=0) + 1
    side = min(int((high - low).max()), *depth.shape)
    top, left = np.clip((low + high - side) // 2, 0, np.array(depth.shape) - side)
    pixels = resize(image[top : top + side, left : left + side], settings.size, settings.size)
    place = ((np.arange(settings.grid) + 0.5) * side / settings.grid).astype(int)
    return Square(pixels, unproject(depth, top + place, left + place, focal=view.focal))


def match_points(
    tokens_a: np.ndarray,
    tokens_b: np.ndarray,
    moved: np.ndarray,
    points_a: np.ndarray,
    points_b: np.ndarray,
    *,
    matches: int,
    rank: str,
    mesh: Mesh,
) -> Matched:
    """The surest ``matches`` of the points of one view with those of another, and their errors.

    Features are brought to the grid of the points by ``models.grid.resize``; each known point of
    the first view goes to the known point of the second of highest cosine s1. ``rank`` "cosine":
    the larger s1 the surer; "ratio": the larger 1 - (1 - s1) / (1 - s2), s2 the second highest.

    Args:
      tokens_a, tokens_b: float [h, w, D].
      moved: float [g * g, 3], ``points_a`` on the axes of the second camera.
      points_a, points_b: float [g, g, 3], z = 0 where unknown.
    """
    grid = points_a.shape[:2]
    kept_a, kept_b = (np.flatnonzero(points[..., 2] > 0) for points in (points_a, points_b))
    if not len(kept_a) or len(kept_b) < 2:
        raise SourceError(
            f"{len(kept_a)} and {len(kept_b)} points of the grid have a depth; wanted at least 2 "
            "each: raise grid"
        )
    a, b = (
        _on_points(tokens, grid)[kept] for tokens, kept in ((tokens_a, kept_a), (tokens_b, kept_b))
    )
    index, cosine = nearest(a, b, 2, mesh=mesh)
    sure = cosine[:, 0]
    if rank == "ratio":
        first, second = np.maximum(1 - cosine.T, 1e-9)
        sure = 1 - first / second
    order = np.argsort(-sure, kind="stable")[:matches]
    a, b = kept_a[order], kept_b[index[order, 0]]
    return Matched(a, b, np.linalg.norm(moved[a] - points_b.reshape(-1, 3)[b], axis=1))


def recall(errors: list[np.ndarray]) -> dict[str, float]:
    """Percent of matches with an error below each threshold, the mean over pairs; and their mean.

    ``errors``: metres [m] of each pair.
    """
    at = {
        f"recall@{limit}cm": 100 * float(np.mean([(e < limit / 100).mean() for e in errors]))
        for limit in THRESHOLDS
    }
    return {"recall": float(np.mean(list(at.values())))} | at


def _pictures(pairs, matched, settings):
    share = [float((m.error < 0.02).mean()) for m in matched]
    order = np.argsort(np.negative(share), kind="stable")
    pictures = []
    for i in dict.fromkeys([*order[:SHOWN], *order[-SHOWN:]]):
        some = np.linspace(0, len(matched[i].a) - 1, min(LINES, len(matched[i].a))).astype(int)
        scale = settings.size / settings.grid
        start, end = (
            centres(index[some], (settings.grid, settings.grid), stride=scale)
            for index in (matched[i].a, matched[i].b)
        )
        colours = np.where((matched[i].error < 0.02)[some, None], GREEN, RED)
        a, b = (cut(view, settings).pixels for view in pairs[i])
        drawn = draw_matches(a, b, start, end, colours, longest=LONGEST)
        caption = f"pair {i}: {100 * share[i]:.0f} % of the matches are within 2 cm (green)"
        pictures.append(Picture(caption, drawn))
    return tuple(pictures)


def _on_points(tokens, grid):
    """[h, w, D] -> float32 [g * g, D]."""
    flat = jnp.asarray(tokens).reshape(1, -1, tokens.shape[-1])
    return np.asarray(resize_tokens(flat, tokens.shape[:2], grid))[0]
