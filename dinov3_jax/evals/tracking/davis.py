"""Video object segmentation: masks of the first frame carried through a clip, J and F.

DINOv3, appendix D.5. The published sets are DAVIS 2017 val, and clips drawn from the training
splits of YouTube-VOS (690 of 3,448) and MOSE (301); which ones is not published.
"""

import dataclasses

import numpy as np
from jax.sharding import Mesh
from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.video import VOID, Clip, open_clips
from dinov3_jax.data.in_order import in_order
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.evaluation import Picture, Result
from dinov3_jax.evals.tracking.jf import boundary_accuracy, region_similarity
from dinov3_jax.evals.tracking.overlay import paint
from dinov3_jax.evals.tracking.propagation import Propagation
from dinov3_jax.evals.tracking.track import track
from dinov3_jax.features.extract import extractor, whole_batch
from dinov3_jax.models.model import Model

SHOWN = 3  # of the best clips, and of the worst


@dataclasses.dataclass(frozen=True)
class DavisSettings:
    data: str
    split: str = "val"  # DAVIS: a list; YouTube-VOS and MOSE: train; one's own clips have none
    short_side: int = 960  # pixels; 480, 960 and 1440 are published
    context: int = 7  # frames looked back at, beside the first
    radius: int | None = 12  # patches; None: no limit
    neighbourhood: str = "circle"  # or "square"
    top_k: int = 5  # patches that give a patch its label
    temperature: float = 0.2  # of the softmax of cosines
    upsample: str = "bilinear"  # of labels to pixels, or "nearest"
    fraction: float = 1.0  # of the clips, drawn by ``seed``; published: 0.2 of YouTube-VOS
    seed: int = 0
    batch: int = 8  # frames through the model at once


def evaluate(model: Model, settings: DavisSettings, mesh: Mesh) -> Result:
    """``J&F`` (the mean of both), ``J`` and ``F`` in percent, means over all objects.

    Each is the mean over the frames that have a mask, without the first and the last frame, as the
    challenge's own program has it. Objects that the first frame does not show are background.
    ``clips`` and ``objects`` are what was scored; ``clips_without_object`` were left out because
    nothing is marked in their first frame.
    """
    how = Propagation(
        settings.context,
        settings.radius,
        settings.neighbourhood,
        settings.top_k,
        settings.temperature,
    )
    extract = extractor(model, mesh, tokens="patch", batch=settings.batch)
    size = whole_batch(settings.batch, mesh)
    scores, empty, shown = [], 0, []
    clips = _draw(open_clips(settings.data, settings.split), settings)
    for clip in clips:
        first = clip.mask(0)
        if not (first > 0).any():
            empty += 1
            continue
        scored = scored_frames(clip)
        # What comes after the last frame that is scored need not be looked at.
        found = track(
            in_order(clip.frame, range(scored[-1] + 1), ahead=2 * size),
            first,
            extract,
            short_side=settings.short_side,
            stride=model.stride,
            batch=size,
            how=how,
            upsample=settings.upsample,
        )
        masks = {i: mask for i, mask in enumerate(found, start=1) if i in scored}
        scores.append(object_scores(masks, {i: clip.mask(i) for i in scored}, np.unique(first)))
        quality = float(scores[-1].mean())
        shown = _extremes([*shown, (quality, _picture(clip, first, masks, quality))])
    if not scores:
        raise SourceError(f"no clip of {settings.data} has an object in its first frame")
    J, F = 100 * np.concatenate(scores).mean(axis=0)
    metrics = {"J&F": (J + F) / 2, "J": J, "F": F}
    counts = {"clips": len(scores), "objects": sum(map(len, scores)), "clips_without_object": empty}
    return Result(
        {name: float(value) for name, value in (metrics | counts).items()},
        tuple(picture for _, picture in shown),
    )


def scored_frames(clip: Clip) -> list[int]:
    """Frames with a mask, but not the first and the last frame; ``SourceError`` without any."""
    scored = [i for i in range(1, len(clip) - 1) if clip.masks[i] is not None]
    if not scored:
        raise SourceError(
            f"clip {clip.name} has {len(clip)} frames and no mask between the first and the last, "
            "which are not scored; wanted one at least"
        )
    return scored


def object_scores(
    masks: dict[int, np.ndarray], truth: dict[int, np.ndarray], numbers: np.ndarray
) -> np.ndarray:
    """J and F of each object, in [0, 1], means over frames: float64 [objects, 2].

    Masks are int [H, W] by frame, the same frames in both. Objects are the positive ``numbers``.
    Pixels that are ``VOID`` in ``truth`` belong to nothing, in both.
    """
    rows = []
    for number in numbers[numbers > 0]:
        frames = []
        for i, true in truth.items():
            if true.shape != masks[i].shape:
                raise SourceError(
                    f"the mask of frame {i} has {true.shape[0]} x {true.shape[1]} pixels, that of "
                    f"the first {masks[i].shape[0]} x {masks[i].shape[1]}"
                )
            pair = (masks[i] == number) & (true != VOID), true == number
            frames.append((region_similarity(*pair), boundary_accuracy(*pair)))
        rows.append(np.mean(frames, axis=0))
    return np.array(rows)


def _draw(clips, settings):
    if not 0 < settings.fraction <= 1:
        raise ConfigError(f"fraction is {settings.fraction}, wanted above 0 and at most 1")
    count = max(1, round(settings.fraction * len(clips)))
    order = np.random.default_rng(settings.seed).permutation(len(clips))
    return [clips[i] for i in sorted(order[:count])]


def _extremes(shown):
    """The worst and the best of (quality, picture), worst first."""
    ordered = sorted(shown, key=lambda pair: pair[0])
    return ordered if len(ordered) <= 2 * SHOWN else ordered[:SHOWN] + ordered[-SHOWN:]


def _picture(clip, first, masks, quality):
    """The first frame with its mask, then the middle and the last frame with what was found."""
    middle, last = list(masks)[len(masks) // 2], max(masks)
    wanted = {0: np.maximum(first, 0), middle: masks[middle], last: masks[last]}
    panels = []
    for i, mask in wanted.items():
        panel = Image.fromarray(paint(clip.frame(i), mask))
        panel.thumbnail((512 // len(wanted), 512))
        panels.append(np.asarray(panel))
    caption = (
        f"{clip.name}, J&F {100 * quality:.1f}: the given mask, and those found in frames "
        f"{', '.join(map(str, list(wanted)[1:]))}"
    )
    return Picture(caption, np.concatenate(panels, axis=1))
