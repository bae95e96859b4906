"""The kind ``match`` of ``dinov3 view``: which patches of two images belong together."""

import argparse

import numpy as np
from matplotlib import colormaps

from dinov3_jax.config import ConfigError
from dinov3_jax.evals.correspondence.match import affine_inliers, centres, match, spread
from dinov3_jax.evals.correspondence.picture import draw_matches
from dinov3_jax.evals.foreground import split


def add_match_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--count", type=int, default=40, help="lines at most, the most similar first; default 40"
    )
    parser.add_argument(
        "--distance",
        type=float,
        default=2.0,
        help="patches between lines at least, in the first image; default 2",
    )
    parser.add_argument(
        "--one-way",
        action="store_true",
        help="the best patch of the second image, though its own best is another one",
    )
    parser.add_argument(
        "--foreground",
        choices=("none", "auto"),
        default="none",
        help="auto: match the foregrounds alone, as view pca finds them; default none",
    )
    parser.add_argument(
        "--affine",
        type=float,
        metavar="PATCHES",
        help="keep the matches that one affine map explains to within so many patches (RANSAC)",
    )


def match_images(
    a: np.ndarray,
    b: np.ndarray,
    tokens_a: np.ndarray,
    tokens_b: np.ndarray,
    options: argparse.Namespace,
    *,
    stride: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two images [H, W, 3] with a line for each match of their patches [h, w, D], and where the
    lines begin and end: x and y in pixels of each image [k, 2].

    Colours run along the width of the first image, so that crossed lines can be followed. Prints
    how many matches there are and how similar.
    """
    if options.count < 1 or options.distance < 0:
        raise ConfigError(
            f"--count={options.count}, --distance={options.distance}; wanted at least 1 and 0"
        )
    masks = split([tokens_a, tokens_b]) if options.foreground == "auto" else (None, None)
    found = match(tokens_a, tokens_b, mutual=not options.one_way, mask_a=masks[0], mask_b=masks[1])
    points_a = centres(found.a, tokens_a.shape[:2], stride=stride)
    points_b = centres(found.b, tokens_b.shape[:2], stride=stride)
    kept = np.arange(len(found.a))
    if options.affine is not None:
        if len(kept) < 4:
            raise ConfigError(f"--affine needs at least 4 matches, there are {len(kept)}")
        kept = kept[affine_inliers(points_a, points_b, tolerance=options.affine * stride)]
        if not len(kept):
            raise ConfigError(f"no affine map explains 3 of {len(found.a)} matches; drop --affine")
    kept = kept[spread(points_a[kept], options.distance * stride)][: options.count]
    print(
        f"{len(found.a)} matches, {len(kept)} drawn, of cosine {found.cosine[kept].mean():.3f} in "
        "the mean"
    )
    shade = colormaps["turbo"](points_a[kept, 0] / a.shape[1])[:, :3]
    colours = np.round(255 * shade).astype(np.uint8)
    points_a, points_b = points_a[kept], points_b[kept]
    return draw_matches(a, b, points_a, points_b, colours), points_a, points_b
