"""``dinov3 view track VIDEO --mask=first.png --model=... --out=DIR``: docs/features.md."""

import argparse
import itertools
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from dinov3_jax.cli.models import add_model_flags
from dinov3_jax.config import ConfigError, MeshConfig
from dinov3_jax.data.benchmarks.video import read_mask
from dinov3_jax.data.sources import SourceError
from dinov3_jax.data.video import open_video
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.evals.tracking.overlay import paint, palette_image
from dinov3_jax.evals.tracking.propagation import NEIGHBOURHOODS, Propagation
from dinov3_jax.evals.tracking.track import UPSAMPLES, track
from dinov3_jax.features.extract import extractor
from dinov3_jax.models.model import Model

GIF_SIDE = 512  # pixels of its longer side, at most


def add_parser(kinds) -> None:
    text = "the objects of a mask of the first frame, followed through a video"
    parser = kinds.add_parser("track", help=text, description=text, allow_abbrev=False)
    parser.add_argument("video", metavar="VIDEO", help="a folder of frames, a GIF or a video file")
    parser.add_argument(
        "--mask",
        required=True,
        metavar="PNG",
        help="of the first frame, at its size: the number of the object at each pixel (palette, or "
        "grey levels), 0 for background",
    )
    add_model_flags(parser)
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument(
        "--short-side",
        type=int,
        default=480,
        metavar="N",
        help="pixels that the model sees; default 480; at 960 and 1440 there are 4 and 9 times as "
        "many patches, and masks follow better",
    )
    parser.add_argument("--frames", type=int, metavar="N", help="only the first N")
    default = Propagation()
    parser.add_argument("--context", type=int, default=default.context, help="frames looked back")
    parser.add_argument(
        "--radius",
        type=lambda text: None if text == "none" else int(text),
        default=default.radius,
        metavar="N|none",
        help="patches that an object moves between two frames at most; default %(default)s",
    )
    parser.add_argument(
        "--neighbourhood", choices=NEIGHBOURHOODS, default=default.neighbourhood, help="its shape"
    )
    parser.add_argument("--top-k", type=int, default=default.top_k)
    parser.add_argument("--temperature", type=float, default=default.temperature)
    parser.add_argument("--upsample", choices=UPSAMPLES, default="bilinear")
    parser.add_argument("--batch", type=int, default=8, help="frames through the model at once")


def run(model: Model, options: argparse.Namespace) -> None:
    """Writes overlays/ and masks/, a PNG a frame, and track.gif into the folder ``options.out``."""
    how = Propagation(
        options.context, options.radius, options.neighbourhood, options.top_k, options.temperature
    )
    if options.frames is not None and options.frames < 1:
        raise ConfigError(f"--frames={options.frames}, wanted at least 1")
    video = open_video(options.video)
    mask = read_mask(str(Path(options.mask).expanduser()))
    if not (mask > 0).any():
        raise SourceError(f"mask {options.mask} has no object: every pixel is 0")
    first = next(video.frames)
    if first.shape[:2] != mask.shape:
        raise SourceError(
            f"mask {options.mask} has {mask.shape[0]} x {mask.shape[1]} pixels, the first frame "
            f"{first.shape[0]} x {first.shape[1]}; they must be of one size"
        )
    mesh = make_mesh(MeshConfig(1, 1, 1, 1), jax.local_devices()[:1])
    # Two readers of one video: what is painted lags behind what goes through the model.
    seen, painted = itertools.tee(
        itertools.islice(itertools.chain([first], video.frames), options.frames)
    )
    found = track(
        seen,
        mask,
        extractor(model, mesh, tokens="patch", batch=options.batch),
        short_side=options.short_side,
        stride=model.stride,
        batch=options.batch,
        how=how,
        upsample=options.upsample,
    )
    masks = itertools.chain([np.maximum(mask, 0)], found)
    out = Path(options.out).expanduser()
    overlays = _written(zip(painted, masks), out)
    milliseconds = max(20, round(1000 / video.rate))  # browsers slow a shorter one down
    next(overlays).save(
        out / "track.gif", save_all=True, append_images=overlays, duration=milliseconds, loop=0
    )
    print(out / "track.gif")


def _written(pairs, out):
    """Writes overlay and mask of each (frame, mask), and gives the overlay, small."""
    for i, (frame, mask) in enumerate(pairs):
        if i == 0:
            for folder in ("overlays", "masks"):
                (out / folder).mkdir(parents=True, exist_ok=True)
        overlay = Image.fromarray(paint(frame, mask))
        overlay.save(out / "overlays" / f"{i:05d}.png")
        palette_image(mask).save(out / "masks" / f"{i:05d}.png")
        overlay.thumbnail((GIF_SIDE, GIF_SIDE))
        yield overlay
