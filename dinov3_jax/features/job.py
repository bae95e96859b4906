"""Features of a whole source of images into a folder: read by threads, resumable, in order."""

import collections
import functools
import itertools
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dinov3_jax.config import ConfigError
from dinov3_jax.data.decode import decode
from dinov3_jax.data.fit import FITS, Fitted, fit
from dinov3_jax.data.in_order import in_order
from dinov3_jax.data.record import Source, SourceError, read
from dinov3_jax.features import store
from dinov3_jax.features.extract import extractor, whole_batch
from dinov3_jax.features.formats import check_format
from dinov3_jax.models.model import Model

_log = logging.getLogger(__name__)


class Summary(NamedTuple):
    images: int  # of the source
    unreadable: int  # of these, in all parts
    computed: int  # images read now; the others were there
    padding: float  # share of what the model computed now that only filled up batches


class _Loaded(NamedTuple):
    path: str
    image: Fitted | None
    error: str  # why there is no image


def write_features(
    model: Model,
    source: Source,
    out: str | Path,
    settings: store.Settings,
    *,
    mesh: Mesh,
    batch: int,
    share: tuple[int, int] = (0, 1),
) -> Summary:
    """Fills the folder ``out`` (``features.store`` says with what) and goes on where it stopped.

    ``share`` (i, n): only every n-th part, from the i-th, counted from 0; n processes, each with
    its own i, fill one folder that all of them see.

    Images of equal shape share a batch. An image that cannot be decoded is logged, noted in the
    index and skipped. ``ConfigError`` for settings that make no sense or differ from those in
    ``out``; ``SourceError`` when more than half of all images cannot be decoded, and where the file
    system gives no bytes.
    """
    out = store.local(out)
    _check(settings, model, share)
    extract = extractor(
        model,
        mesh,
        tokens=settings.tokens,
        layers=settings.layers,
        dtype=settings.dtype,
        batch=batch,
    )
    store.claim(out, model, source, settings)
    indexes = [store.finished(out, i) for i in range(store.parts(len(source), settings.part))]
    there = [row for index in indexes if index is not None for row in index]
    bad = [row for row in there if "error" in row]
    mine, of = share
    todo = [i for i, index in enumerate(indexes) if index is None and i % of == mine]
    ranges = [range(i * settings.part, min((i + 1) * settings.part, len(source))) for i in todo]
    load = functools.partial(
        _load,
        source,
        size=settings.size,
        how=settings.fit,
        stride=model.stride,
        fill=tuple(round(255 * level) for level in model.mean),
    )
    size, slots, seen, computed = whole_batch(batch, mesh), 0, 0, 0
    _refuse_broken(bad, len(source))
    with (
        logging_redirect_tqdm(),  # a warning does not break the bar
        tqdm(total=len(source), initial=len(there), unit="image") as bar,
    ):
        loaded = in_order(load, (i for images in ranges for i in images), ahead=2 * size)
        for part, images in zip(todo, ranges, strict=True):
            few = itertools.islice(loaded, len(images))
            rows, files, used = _part(few, extract, part, size, model.stride, bar.update)
            slots += used
            seen += sum("file" in row for row in rows)
            computed += len(rows)
            bad += [row for row in rows if "error" in row]
            store.write_part(out, part, rows, files, format=settings.format)
            _refuse_broken(bad, len(source))
    padding = 1 - seen / slots if slots else 0.0
    return Summary(len(source), len(bad), computed, padding)


def _check(settings, model, share):
    check_format(settings.format)
    if settings.fit not in FITS:
        raise ConfigError(f"fit is {settings.fit!r}, wanted one of {', '.join(FITS)}")
    if not 0 <= share[0] < share[1]:
        raise ConfigError(
            f"share is {share[0]} of {share[1]}, wanted a number from 0 to {share[1] - 1}"
        )
    if settings.part < 1:
        raise ConfigError(f"part is {settings.part}, wanted at least 1 image")
    for side in settings.size or ():
        down = side // model.stride * model.stride
        if side != down or side < 1:
            choice = f"{down} or " if down else ""
            raise ConfigError(
                f"size {settings.size[0]} x {settings.size[1]} is no whole number of patches of "
                f"{model.stride} pixels; take {choice}{down + model.stride} instead of {side}"
            )


def _load(source: Source, index: int, **how) -> _Loaded:
    path = f"record {index}"
    try:
        record = read(source, index)
        path = record.id
        return _Loaded(path, fit(decode(record.image), **how), "")
    except ValueError as error:
        _log.warning("unreadable image %s, skipped: %s", path, error)
        return _Loaded(path, None, str(error))


def _part(loaded, extract, part, batch, stride, progress):
    """(index rows, stem -> (paths, arrays), images computed with the padding) of one part."""
    rows, paths = [], collections.defaultdict(list)
    waiting, made = collections.defaultdict(list), collections.defaultdict(list)

    def compute(stem):
        images = waiting.pop(stem)
        made[stem].append(extract(np.stack(images)))
        progress(len(images))

    for path, image, error in loaded:
        if image is None:
            rows.append({"path": path, "part": part, "error": error})
            progress(1)
            continue
        height, width = image.pixels.shape[:2]
        stem = f"{part:05d}-{height}x{width}"
        rows.append(
            {
                "path": path,
                "part": part,
                "file": stem,
                "row": len(paths[stem]),
                "h": height // stride,
                "w": width // stride,
                "height": image.height,
                "width": image.width,
            }
        )
        paths[stem].append(path)
        waiting[stem].append(image.pixels)
        if len(waiting[stem]) == batch:
            compute(stem)
    for stem in list(waiting):
        compute(stem)
    files = {
        stem: (paths[stem], {name: np.concatenate([x[name] for x in found]) for name in found[0]})
        for stem, found in made.items()
    }
    return rows, files, batch * sum(map(len, made.values()))


def _refuse_broken(bad, images):
    if 2 * len(bad) > images:
        raise SourceError(
            f"{len(bad)} of {images} images cannot be read, more than half (the first is "
            f"{bad[0]['path']}: {bad[0]['error']}); repair them, then start with another --out"
        )
