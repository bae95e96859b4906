"""PCA pictures of several images in one basis, with the background taken out first."""

import numpy as np

from dinov3_jax.evals.pictures import pca_rgb, principal

FOREGROUNDS = ("auto", "flip", "none")
_BACKGROUND = 24  # its grey level


def pca_pictures(grids: list[np.ndarray], *, foreground: str) -> list[np.ndarray]:
    """Patch tokens [h, w, D] of each image -> colours uint8 [h, w, 3] of each; D >= 3.

    One basis for all images, so that a colour means the same in each. "auto": the patches that
    ``split`` finds are coloured by their own principal components (``pictures.pca_rgb``) and the
    rest is dark; "flip": the other side of the split; "none": all patches are coloured.
    """
    if foreground not in FOREGROUNDS:
        raise ValueError(f"foreground is {foreground!r}, wanted one of {', '.join(FOREGROUNDS)}")
    rows = np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in grids])
    chosen = np.ones(len(rows), bool)
    if foreground != "none":
        split_at = np.concatenate([mask.ravel() for mask in split(grids)])
        if not split_at.all():
            chosen = split_at if foreground == "auto" else ~split_at
    colours = np.full((len(rows), 3), _BACKGROUND, np.uint8)
    colours[chosen] = pca_rgb(rows[None, None, chosen])[0, 0]
    ends = np.cumsum([grid.shape[0] * grid.shape[1] for grid in grids])
    parts = np.split(colours, ends[:-1])
    return [part.reshape(*grid.shape[:2], 3) for part, grid in zip(parts, grids, strict=True)]


def split(grids: list[np.ndarray]) -> list[np.ndarray]:
    """Which patches are foreground, bool [h, w] for each image.

    The first principal component of all patches is cut in two where the variance between the
    sides is largest (Otsu's threshold). Its sign says nothing; the foreground is the side with the
    smaller share of its patches on the border of the images. Where patches do not differ, all are.
    """
    rows = np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in grids])
    score, variance = principal(rows, 1)
    score = score[:, 0]
    # Below this, relative to the length of the features, the component is rounding.
    if variance[0] <= 1e-10 * max(np.mean(np.square(rows, dtype=np.float64)), 1e-30):
        return [np.ones(grid.shape[:2], bool) for grid in grids]
    high = score > _otsu(score)
    border = np.concatenate([_border(*grid.shape[:2]).ravel() for grid in grids])
    inside = high if border[high].mean() <= border[~high].mean() else ~high
    ends = np.cumsum([grid.shape[0] * grid.shape[1] for grid in grids])
    parts = np.split(inside, ends[:-1])
    return [part.reshape(grid.shape[:2]) for part, grid in zip(parts, grids, strict=True)]


def _otsu(score):
    """A threshold with values on both sides; ``score`` [n] is not constant."""
    ordered = np.sort(score)
    below = np.arange(1, len(score))
    sums = np.cumsum(ordered)[:-1]
    means = sums / below, (ordered.sum() - sums) / (len(score) - below)
    between = below * (len(score) - below) * (means[1] - means[0]) ** 2
    between[ordered[1:] == ordered[:-1]] = -1.0  # equal values stay together
    cut = int(np.argmax(between))
    return (ordered[cut] + ordered[cut + 1]) / 2


def _border(h, w):
    mask = np.zeros((h, w), bool)
    mask[[0, -1]] = mask[:, [0, -1]] = True
    return mask
