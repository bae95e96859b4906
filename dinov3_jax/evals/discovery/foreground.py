"""Foreground from patches: a logistic regression on some images, tried on one left out."""

import dataclasses

import numpy as np
from jax.sharding import Mesh
from PIL import Image
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.foreground import open_foreground
from dinov3_jax.data.fit import fit
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.draw import overlay
from dinov3_jax.evals.evaluation import Picture, Result
from dinov3_jax.evals.pictures import heat
from dinov3_jax.features.extract import extractor
from dinov3_jax.models.model import Model

SHOWN = 8
PURE = (0.01, 0.99)  # patches with a share of foreground between these teach and test nothing


@dataclasses.dataclass(frozen=True)
class ForegroundSettings:
    data: str
    split: str = "val"  # of VOC; a folder of one's own has none
    height: int = 768  # pixels, rounded down to whole patches; the width follows, likewise
    Cs: tuple[float, ...] = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    folds: int | None = None  # parts of the images, each left out once; None: single images


def evaluate(model: Model, settings: ForegroundSettings, mesh: Mesh) -> Result:
    """``ap``: percent, mean over images of the average precision on the patches of an image that
    the classifier did not see.

    It is the best over ``settings.Cs``, reached at ``C``; ``ap_C_0.1`` ... are all of them. Of
    ``images``; ``images_of_one_class`` taught, but have no average precision.
    """
    if not settings.Cs or min(settings.Cs) <= 0:
        raise ConfigError(f"Cs are {settings.Cs}, wanted at least one, all above 0")
    data = open_foreground(settings.data, settings.split)
    extract = extractor(model, mesh, tokens="patch", batch=1)
    tokens, shares, grids = [], [], []
    for i in range(len(data)):
        image, alpha = data[i]
        height, width = alpha.shape
        size = _size(height, width, settings.height, model.stride)
        pixels = fit(image, size, how="resize", stride=model.stride, fill=(0, 0, 0)).pixels
        found = extract(pixels[None])["patch_tokens"][0]
        grids.append(found.shape[:2])
        tokens.append(found.reshape(-1, found.shape[-1]))
        shares.append(patch_shares(alpha, *grids[-1]).ravel())
    folds = len(data) if settings.folds is None else settings.folds
    scores, chances = left_out(tokens, shares, settings.Cs, folds)
    means = 100 * np.nanmean(scores, axis=1)
    best = int(np.argmax(means))
    metrics = {"ap": means[best], "C": settings.Cs[best]}
    metrics |= {f"ap_C_{C:g}": mean for C, mean in zip(settings.Cs, means)}
    metrics |= {"images": len(data), "images_of_one_class": np.isnan(scores[0]).sum()}
    order = np.argsort(scores[best])[:SHOWN]  # NaN last
    pictures = (
        _picture(data, i, chances[best][i].reshape(grids[i]), scores[best, i]) for i in order
    )
    return Result({name: float(value) for name, value in metrics.items()}, tuple(pictures))


def left_out(
    tokens: list[np.ndarray], shares: list[np.ndarray], Cs: tuple[float, ...], folds: int
) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Each image judged by a logistic regression of the other folds' patches.

    Args:
      tokens: [N, D] of each image; shares: of foreground, [N] each. Patches with a share below
        ``PURE[0]`` are background, above ``PURE[1]`` foreground; others (and NaN) do not count.
      Cs: inverse strengths of the L2 penalty.
      folds: 2 to the number of images; image i is in fold i modulo ``folds``.

    Returns:
      Average precision float64 [Cs, images], NaN for an image whose patches are of one class; and
      for each C and image the chance of foreground float64 [N] of all its patches.

    Raises ``SourceError`` where the other folds have one class alone, or all images have.
    """
    images = len(tokens)
    if not 2 <= folds <= images:
        raise SourceError(
            f"{images} images cannot be parted into {folds} folds, of which one is left out; "
            f"wanted at least 2 images, and 2 to as many folds"
        )
    counts = [(share < PURE[0]) | (share > PURE[1]) for share in shares]
    truths = [share[count] > 0.5 for share, count in zip(shares, counts)]
    if all(len(np.unique(truth)) < 2 for truth in truths):
        raise SourceError(
            "no image has patches of pure foreground and of pure background; take larger images "
            "(height) or other masks"
        )
    scores = np.full((len(Cs), images), np.nan)
    chances = [[np.zeros(0)] * images for _ in Cs]
    for fold in range(folds):
        out = range(fold, images, folds)
        others = [i for i in range(images) if i not in out]
        x = np.concatenate([tokens[i][counts[i]] for i in others])
        y = np.concatenate([truths[i] for i in others])
        if len(np.unique(y)) < 2:
            raise SourceError(
                "without one fold, the patches left are of one class; wanted more images with "
                "foreground and background"
            )
        for c, C in enumerate(Cs):
            classifier = LogisticRegression(C=C, max_iter=100_000).fit(x, y)
            for i in out:
                chances[c][i] = classifier.predict_proba(tokens[i])[:, 1]
                if len(np.unique(truths[i])) == 2:
                    scores[c, i] = average_precision_score(truths[i], chances[c][i][counts[i]])
    return scores, chances


def patch_shares(alpha: np.ndarray, h: int, w: int) -> np.ndarray:
    """Mean of alpha [H, W] over each patch, float32 [h, w]; NaN where a pixel of it is NaN."""
    return np.asarray(Image.fromarray(alpha).resize((w, h), Image.Resampling.BOX))


def smooth(chance: np.ndarray) -> np.ndarray:
    """Median of 3 x 3 patches, 0 beyond the border; [h, w]."""
    return ndimage.median_filter(chance, size=3, mode="constant")


def _size(height, width, tall, stride):
    """(H, W) for an image of ``height`` x ``width`` pixels: ``tall`` and in proportion, whole
    patches."""
    rows = tall // stride
    if rows < 1:
        raise ConfigError(f"height is {tall} pixels, below a patch of {stride}")
    return rows * stride, max(1, width * tall // (height * stride)) * stride


def _picture(data, index, chance, score):
    """Chances [h, w] over the image: a small C keeps them close together, so they are stretched."""
    image = Image.fromarray(data[index][0])
    image.thumbnail((512, 512))
    low, high = chance.min(), chance.max()
    shown = smooth((chance - low) / max(high - low, 1e-30)).astype(np.float32)
    colours = heat(np.asarray(Image.fromarray(shown).resize(image.size)))
    judged = "one class alone" if np.isnan(score) else f"average precision {100 * score:.1f}"
    name = data.images[index].rpartition("/")[2]
    caption = f"{name}: {judged}; chance of foreground from {low:.3f}, dark, to {high:.3f}, bright"
    return Picture(caption, overlay(np.asarray(image), colours))
