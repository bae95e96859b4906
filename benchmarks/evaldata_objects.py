"""Small data sets with exact boxes, masks and clips, made of a folder of real photographs.

An object is an ellipse cut out of one photograph and laid on another, so that the truth is known to
the pixel; nothing else in it is synthetic. Each function takes (photos, out) and returns the path
for ``dinov3 eval --data``.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from dinov3_jax.data.benchmarks.boxes import COLUMNS
from dinov3_jax.data.decode import decode
from dinov3_jax.data.sources import open_images
from dinov3_jax.evals.tracking.overlay import palette_image

SIDE = 224  # pixels of a picture, square
RADII = (36, 64)  # of an ellipse
DRIFT = 3  # pixels that an object moves a frame at most, along each axis


def clips(photos: Path, out: Path, *, count: int = 4, frames: int = 12, seed: int = 0) -> str:
    """For ``davis``: out/CLIP/frames/*.png and masks/*.png, two objects over a photograph.

    The background drifts too, as under a hand-held camera. The second object lies above the first.
    """
    rng, source = np.random.default_rng(seed), open_images(str(photos))
    for clip in range(count):
        behind = _photo(source, rng, SIDE + 32)
        objects = [(_photo(source, rng, SIDE), *_ellipse(rng)) for _ in range(2)]
        starts, speeds = rng.uniform(0.3, 0.7, (2, 2)) * SIDE, rng.uniform(-DRIFT, DRIFT, (2, 2))
        for folder in ("frames", "masks"):
            (out / f"{clip:03d}" / folder).mkdir(parents=True, exist_ok=True)
        for i in range(frames):
            y, x = (round(16 + 12 * np.sin(i / 5 + phase)) for phase in (0, 1))
            frame = behind[y : y + SIDE, x : x + SIDE].copy()
            mask = np.zeros((SIDE, SIDE), np.uint8)
            for number, (texture, *radii) in enumerate(objects, start=1):
                centre = _bounce(starts[number - 1] + i * speeds[number - 1])
                _paste(frame, mask, number, texture, centre, radii)
            Image.fromarray(frame).save(out / f"{clip:03d}/frames/{i:05d}.png")
            palette_image(mask).save(out / f"{clip:03d}/masks/{i:05d}.png")
    return str(out)


def boxes(photos: Path, out: Path, *, count: int = 32, seed: int = 1) -> str:
    """For ``tokencut``: an object on each of out/images/*.png, its box in boxes.csv."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    lines = [",".join(COLUMNS)]
    for i, (image, mask) in enumerate(_pasted(photos, count, seed)):
        Image.fromarray(image).save(out / f"images/{i:03d}.png")
        rows, columns = np.nonzero(mask)
        corners = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        lines.append(f"{i:03d}.png,{','.join(map(str, corners))}")
    (out / "boxes.csv").write_text("\n".join(lines) + "\n")
    return str(out)


def masks(photos: Path, out: Path, *, count: int = 32, seed: int = 1) -> str:
    """For ``attention`` and ``foreground``: out/images/*.png and out/masks/*.png, 255 on the
    object of each; the images of ``boxes``."""
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for i, (image, mask) in enumerate(_pasted(photos, count, seed)):
        Image.fromarray(image).save(out / f"images/{i:03d}.png")
        Image.fromarray(255 * mask).save(out / f"masks/{i:03d}.png")
    return str(out)


def _pasted(photos, count, seed):
    rng, source = np.random.default_rng(seed), open_images(str(photos))
    for _ in range(count):
        image, mask = _photo(source, rng, SIDE), np.zeros((SIDE, SIDE), np.uint8)
        radii = _ellipse(rng)
        centre = [rng.integers(radius, SIDE - radius) for radius in radii]
        _paste(image, mask, 1, _photo(source, rng, SIDE), centre, radii)
        yield image, mask


def _photo(source, rng, side):
    """The middle of a photograph drawn at random, uint8 [side, side, 3]."""
    image = Image.fromarray(decode(source[int(rng.integers(len(source)))].image))
    short = min(image.size)
    left, top = ((length - short) // 2 for length in image.size)
    square = image.crop((left, top, left + short, top + short)).resize((side, side))
    return np.array(square)


def _ellipse(rng):
    return rng.integers(*RADII, 2)


def _bounce(point):
    """Centres wander between 20 % and 80 % of the side and turn back there."""
    low, span = 0.2 * SIDE, 0.6 * SIDE
    return low + span - abs((point - low) % (2 * span) - span)


def _paste(frame, mask, number, texture, centre, radii):
    """Lays the middle of ``texture`` on ``frame`` around ``centre`` (y, x), in place."""
    cy, cx = (round(float(c)) for c in centre)
    y, x = np.ogrid[:SIDE, :SIDE]
    inside = ((y - cy) / radii[0]) ** 2 + ((x - cx) / radii[1]) ** 2 <= 1
    moved = np.roll(texture, (cy - SIDE // 2, cx - SIDE // 2), axis=(0, 1))
    frame[inside], mask[inside] = moved[inside], number
