"""The patch-similarity picture of a run, one strip an evaluation: local structure over time.

A strip has two rows of equal cells. Above: a few images of the run, each once for every reference
patch, which is ringed. Below: the cosine of every patch with that reference. Images, patches and
colour scale are the same at every step, so that two strips differ by the features alone.

Source: the picture of DINOv3 (arXiv 2508.10104, section 4), there for one image and one patch.
"""

import io
import logging
import math

import numpy as np
from etils import epath
from PIL import Image

from dinov3_jax.evals import page, pictures

IMAGES = 4  # images of a strip
SHOWN = 6  # strips in the report

_FOLDER = "similarity"
_CELL = 112  # pixels, about the side of a cell
_GAP = 4  # transparent pixels between cells
_log = logging.getLogger(__name__)


def write_similarity(
    workdir: epath.PathLike, step: int, images: np.ndarray, patch_tokens: np.ndarray
) -> None:
    """Writes ``workdir/similarity/STEP.png``, whole or not at all: the ``strip`` of a few images.

    At most ``IMAGES`` of them, evenly spaced: neighbours in a data set are often of one class. A
    disk that takes no picture is logged; a run does not end for it.

    Args:
      workdir: the run's.
      step: steps done. The same step again replaces the picture.
      images: uint8 [n, H, H, 3], RGB, the same at every step of a run.
      patch_tokens: float [n, N, D], N a square number, row-major over the grid of each image.
    """
    count = min(IMAGES, len(images))
    chosen = np.arange(count) * len(images) // max(count, 1)
    picture = strip(images[chosen], patch_tokens[chosen])
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    path = epath.Path(workdir) / _FOLDER / f"{step:08d}.png"  # file browsers sort by name
    draft = path.parent / (path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(file.getvalue())
        draft.replace(path)
    except OSError as error:
        _log.warning("no similarity picture of step %d: %s", step, error)


def read_strips(workdir: epath.PathLike, steps) -> dict[int, np.ndarray]:
    """At most ``SHOWN`` strips written at ``steps``, by step: first, last, evenly spaced between.

    Steps without a readable picture do not count.
    """
    folder = epath.Path(workdir) / _FOLDER
    there = {path.name for path in folder.glob("*.png")} if folder.exists() else set()
    known = [step for step in sorted(set(steps)) if f"{step:08d}.png" in there]
    chosen = np.unique(np.linspace(0, len(known) - 1, min(SHOWN, len(known))).round().astype(int))
    strips = {}
    for step in (known[i] for i in chosen):
        try:
            data = (folder / f"{step:08d}.png").read_bytes()
            strips[step] = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
        except OSError as error:
            _log.warning("similarity picture of step %d left out: %s", step, error)
    return strips


def strip(images: np.ndarray, patch_tokens: np.ndarray) -> np.ndarray:
    """The picture of n images with two reference patches each, uint8 RGBA [2 c + gap, ..., 4].

    The references are the patch in the middle and the one a quarter from the top left corner. The
    scale is fixed: cosines from 0 (dark; below 0 too) to 1 (bright). Features that are not finite
    are grey.

    Args:
      images: uint8 [n, H, H, 3], n >= 1.
      patch_tokens: float [n, N, D], N a square number.
    """
    side = math.isqrt(patch_tokens.shape[1]) if patch_tokens.ndim == 3 else 0
    if images.ndim != 4 or images.shape[1] != images.shape[2] or not len(images):
        raise ValueError(f"images have shape {images.shape}, wanted [n, H, H, 3] with n >= 1")
    if side == 0 or side**2 != patch_tokens.shape[1] or len(patch_tokens) != len(images):
        raise ValueError(
            f"patch_tokens have shape {patch_tokens.shape}, wanted [{len(images)}, N, D], N a "
            "square number: the patches of square images"
        )
    tokens = patch_tokens.reshape(-1, side, side, patch_tokens.shape[-1])  # [n, h, w, D]
    unknown = np.full((side, side), np.nan)
    above, below = [], []
    for image, grid in zip(images, tokens):
        finite = np.isfinite(grid).all()
        for reference in ((side // 2, side // 2), (side // 4, side // 4)):
            cosine = pictures.similarity(grid, reference) if finite else unknown
            y, x = ((place + 0.5) / side for place in reference)
            above.append(_cell(image, image.shape[0], (x, y)))
            below.append(_cell(pictures.heat(cosine), image.shape[0], (x, y)))
    rows = [_join(row, axis=1) for row in (above, below)]
    return _join(rows, axis=0)


def split(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row of images and the row of maps of a ``strip``."""
    height = (picture.shape[0] - _GAP) // 2
    return picture[:height], picture[-height:]


def _cell(image, side, point):
    """RGBA square of about ``_CELL`` pixels, the same for an image of ``side`` and for its map."""
    size = side * max(1, round(_CELL / side)) if side <= _CELL else _CELL
    shrinks = image.shape[0] > size  # else whole squares: blurring would invent detail
    drawn = Image.fromarray(image).resize((size, size), Image.LANCZOS if shrinks else Image.NEAREST)
    page.ring(drawn, point)
    return np.asarray(drawn.convert("RGBA"))


def _join(cells, *, axis):
    gap = list(cells[0].shape)
    gap[axis] = _GAP
    parts = [part for cell in cells for part in (np.zeros(gap, np.uint8), cell)]
    return np.concatenate(parts[1:], axis=axis)
