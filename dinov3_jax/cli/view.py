"""``dinov3 view pca|similarity|attention|match IMAGE ... --model=...``: docs/features.md.

``dinov3 view track VIDEO`` is in ``view_track``.
"""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from dinov3_jax.augment.normalize import normalize
from dinov3_jax.cli import view_track
from dinov3_jax.cli.models import add_model_flags, open_model
from dinov3_jax.cli.sizes import parse_size
from dinov3_jax.cli.view_match import add_match_flags, match_images
from dinov3_jax.config import ConfigError, MeshConfig
from dinov3_jax.data.benchmarks.matches import Pair, write_matches
from dinov3_jax.data.decode import decode
from dinov3_jax.data.fit import fit
from dinov3_jax.data.sources import SourceError
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.evals import draw
from dinov3_jax.evals.foreground import FOREGROUNDS, pca_pictures
from dinov3_jax.evals.pictures import heat, similarity_to
from dinov3_jax.features.extract import extractor
from dinov3_jax.models.attention_maps import cls_attention
from dinov3_jax.models.model import Model


class View(NamedTuple):
    path: str
    name: str  # of its pictures
    pixels: np.ndarray  # uint8 [H, W, 3], as the model sees it
    height: int  # of the file, after EXIF rotation
    width: int


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("dinov3 view", description="PNGs of what a model sees.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    pca = _kind(kinds, "pca", "the first three principal components of the patches as colours")
    pca.add_argument(
        "--foreground",
        choices=FOREGROUNDS,
        default="auto",
        help="colour the foreground alone, the other side (flip), or all patches (none)",
    )
    similarity = _kind(kinds, "similarity", "cosine of all patches with one of the first image")
    similarity.add_argument(
        "--point",
        type=_point,
        action="append",
        metavar="X,Y",
        help="pixels of the first image from its top left; may be repeated; default its centre",
    )
    attention = _kind(kinds, "attention", "attention of CLS to the patches, each head and the mean")
    attention.add_argument("--layer", type=int, help="block, counted from 0; default the last")
    match = _kind(kinds, "match", "lines between the patches of two images that belong together")
    add_match_flags(match)
    view_track.add_parser(kinds)
    options = parser.parse_args(argv)
    model = open_model(options)
    if options.kind == "track":
        view_track.run(model, options)
        return
    views = _read(options.images, options.size, model)
    if options.kind == "pca":
        made = _pca(model, views, options)
    elif options.kind == "similarity":
        made = _similarity(model, views, options)
    elif options.kind == "attention":
        made = _attention(model, views, options)
    else:
        made = _match(model, views, options)
    out = Path(options.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in made.items():
        Image.fromarray(picture).save(out / f"{name}.png")
        print(out / f"{name}.png")


def _kind(kinds, name, text):
    parser = kinds.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    add_model_flags(parser)
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument(
        "--size",
        type=parse_size,
        default=512,
        metavar="N|HxW|none",
        help="pixels: N for the longer side, none for the image's own; default 512. Each side then "
        "goes to the nearest whole number of patches",
    )
    parser.add_argument("--upscale", choices=draw.UPSCALES, default="nearest", help="of the maps")
    return parser


def _point(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"\d+,\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no point; wanted X,Y in pixels, as 120,80")
    x, y = text.split(",")
    return int(x), int(y)


def _read(paths, size, model) -> list[View]:
    stems = [Path(path).stem for path in paths]
    views = []
    for i, (path, stem) in enumerate(zip(paths, stems)):
        try:
            image = decode(Path(path).expanduser().read_bytes())
            height, width = image.shape[:2]
            target = _target(height, width, size, model.stride)
            pixels = fit(image, target, how="resize", stride=model.stride, fill=(0, 0, 0)).pixels
        except ConfigError:
            raise
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: {error}") from error
        H, W = pixels.shape[:2]
        print(
            f"{path}: {height} x {width} pixels, seen at {H} x {W} as {H // model.stride} x "
            f"{W // model.stride} patches"
        )
        name = stem if stems.count(stem) == 1 else f"{i}_{stem}"
        views.append(View(path, name, pixels, height, width))
    return views


def _target(height, width, size, stride):
    """(H, W) on the patch grid, or None for the image's own size."""
    if size is None:
        return None
    if isinstance(size, int):
        sides = [side * size / max(height, width) for side in (height, width)]
        least = size
    else:
        sides, least = size, min(size)
    if least < stride:
        raise ConfigError(f"--size has {least} pixels a side, below a patch of {stride}")
    return tuple(max(1, round(side / stride)) * stride for side in sides)


def _pca(model, views, options):
    grids = _tokens(model, views)
    colours = pca_pictures(grids, foreground=options.foreground)
    return {
        f"{view.name}_pca": draw.beside(view.pixels, _enlarge(colour, view, options))
        for view, colour in zip(views, colours)
    }


def _similarity(model, views, options):
    first, made = views[0], {}
    points = options.point or [(first.width // 2, first.height // 2)]
    for x, y in points:
        if x >= first.width or y >= first.height:
            raise ConfigError(
                f"--point={x},{y} is outside {first.path}, which is {first.width} pixels wide and "
                f"{first.height} high"
            )
    grids = _tokens(model, views)
    h, w = grids[0].shape[:2]
    for x, y in points:
        token = grids[0][y * h // first.height, x * w // first.width]
        for view, grid in zip(views, grids):
            colours = _enlarge(heat(similarity_to(grid, token)), view, options)
            pictures = [view.pixels, draw.overlay(view.pixels, colours)]
            if view is first:
                spot = ((x + 0.5) / first.width, (y + 0.5) / first.height)
                pictures = [draw.mark(picture, spot) for picture in pictures]
            made[f"{view.name}_similarity_{x}_{y}"] = draw.beside(*pictures)
    return made


def _attention(model, views, options):
    layer, made = options.layer, {}
    if layer is None:
        layer = getattr(model.config, "depth", 1) - 1  # of a ConvNeXt there is none: refused below
    for view in views:
        images = normalize(jax.numpy.asarray(view.pixels)[None], mean=model.mean, std=model.std)
        heads = np.asarray(cls_attention(model, images, layer))[0]  # [A, h, w]
        maps = {"mean": heads.mean(axis=0)}
        maps |= {f"head{i:02d}": head for i, head in enumerate(heads)}
        for name, weights in maps.items():
            # Probabilities depend on the number of patches: each map has its own scale.
            bright = max(float(np.percentile(weights, 99)), 1e-30)
            colours = _enlarge(heat(weights / bright), view, options)
            picture = draw.beside(view.pixels, colours)
            made[f"{view.name}_attention_block{layer:02d}_{name}"] = picture
    return made


def _match(model, views, options):
    if len(views) != 2:
        raise ConfigError(f"{len(views)} image(s) are given, a match is of two")
    (a, b), (tokens_a, tokens_b) = views, _tokens(model, views)
    picture, *points = match_images(
        a.pixels, b.pixels, tokens_a, tokens_b, options, stride=model.stride
    )
    name, out = f"{a.name}_match_{b.name}", Path(options.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    # From pixels as the model sees them to those of the files.
    points = [
        seen * (view.width / view.pixels.shape[1], view.height / view.pixels.shape[0])
        for seen, view in zip(points, views, strict=True)
    ]
    pair = Pair(Path(a.path).expanduser(), Path(b.path).expanduser(), *points)
    write_matches(out / f"{name}.csv", pair)
    print(out / f"{name}.csv")
    return {name: picture}


def _tokens(model: Model, views: list[View]) -> list[np.ndarray]:
    """Patch tokens [h, w, D] of each."""
    mesh = make_mesh(MeshConfig(1, 1, 1, 1), jax.local_devices()[:1])
    extract = extractor(model, mesh, tokens="patch", batch=1)
    return [extract(view.pixels[None])["patch_tokens"][0] for view in views]


def _enlarge(colours, view, options):
    return draw.enlarge(colours, *view.pixels.shape[:2], upscale=options.upscale)
