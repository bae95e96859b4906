"""What training and evaluation read: batches of crops and masks, and plain evaluation images.

Nothing depends on how the work is divided: step t of a run is the same whatever the number of
processes, threads and workers, and wherever the run was resumed.
"""

import dataclasses
import functools
import gc
import logging
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np
from absl import flags

from dinov3_jax.config import TrainConfig
from dinov3_jax.data import crops, masking, mixture, order
from dinov3_jax.data.canvas import place
from dinov3_jax.data.check import check_config
from dinov3_jax.data.decode import decode
from dinov3_jax.data.record import Source, SourceError
from dinov3_jax.data.resolution import crops_at, resolution_at

_log = logging.getLogger(__name__)
_MAX_FAILURES = 100  # unreadable records in a row after which the data set counts as broken


def train_batches(
    source: Source,
    config: TrainConfig,
    *,
    start_step: int,
    stop_step: int,
    groups: Sequence[int] | None = None,
) -> Generator[dict[str, np.ndarray], None, None]:
    """Batches of steps start_step .. stop_step - 1, or of each the ``groups`` that a process reads.

    With s groups (None: all S), b = s B / S images, n = 2 + L crops:

    host augmentation    ``global_crops`` uint8 [b, 2, H, W, 3], ``local_crops`` [b, L, h, w, 3]
                         and, if the step has Gram crops, ``gram_crops`` [b, 2, g, g, 3];
    device augmentation  ``canvas`` uint8 [b, C, C, 3] and the draws of ``crops.draw`` with a
                         leading b, boxes float32 in pixels of the canvas;
    always               ``masks`` bool [b, 2, N]; ``mask_indices`` int32 [s, M], positions in the
                         group's flattened [B/S * 2 * N]; ``mask_weights`` float32 [s, M];
                         ``record`` int64 [b], the record in each slot; ``skipped`` int32 [b],
                         unreadable records passed over for that slot.

    With ``crops.mixture`` the sizes H, h, g, and N and M with H, are those of the step:
    ``crops_at(config.crops, resolution_at(config, step))``.

    With ``data.mixture`` the images come from several sources: ``mixture.records_at``.

    An unreadable record is logged with its reason and replaced by one, of the same source, that
    depends on (seed, sample, attempt) alone. ``data.threads`` beyond ``data.buffer`` times s stay
    idle, because a thread loads a group at a time. With ``data.workers`` the caller's main module
    must be importable without effects (``if __name__ == "__main__":``). ``close()`` the iterator to
    stop its readers early.
    Raises ConfigError for a recipe this cannot serve, SourceError for a broken data set.
    """
    check_config(config)
    count = config.batch.images // config.batch.group
    mine = tuple(range(count) if groups is None else groups)
    if not mine or not set(mine) <= set(range(count)):
        raise ValueError(f"groups are {mine}, wanted at least one of 0..{count - 1}")
    if not 0 <= start_step <= stop_step:
        raise ValueError(f"steps {start_step}..{stop_step} run backwards or below 0")
    if len(source) < 1:
        raise SourceError("the data set has no records")
    load = functools.partial(_load_group, source=source, config=config, groups=mine)
    data, each = config.data, len(mine)
    dataset = grain.MapDataset.range(start_step * each, stop_step * each).map(load)
    if data.workers > 0:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags; a library has no argv
        dataset = dataset.to_iter_dataset(grain.ReadOptions(1, prefetch_buffer_size=1))
        ahead = max(1, data.buffer * each // data.workers)
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(data.workers, ahead))
    else:
        dataset = dataset.to_iter_dataset(grain.ReadOptions(data.threads, data.buffer * each))
    return _batches(dataset, each, copy=data.workers > 0)


def eval_images(source: Source, indices, *, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre crops of records ``indices`` (integers [m]) -> (images, kept).

    images: uint8 [n, size, size, 3]; the short side is resized to size * 256 / 224 first, or to
    ``size`` where it is not above ``size``, so that small pictures lose no margin.
    kept: int64 [n], the indices whose records could be read; the others are logged.
    """
    indices = np.asarray(indices, np.int64)
    load = functools.partial(_load_eval_image, source, size=size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = list(pool.map(load, indices.tolist()))
    readable = np.array([image is not None for image in images], bool)
    kept = [image for image in images if image is not None]
    stacked = np.stack(kept) if kept else np.empty((0, size, size, 3), np.uint8)
    return stacked, indices[readable]


def _batches(dataset: grain.IterDataset, groups: int, *, copy: bool):
    """Joins each ``groups`` groups; ``copy`` even single ones, out of workers' shared memory."""
    iterator, parts = iter(dataset), []
    try:
        for part in iterator:
            parts.append(part)
            if len(parts) == groups:
                yield _join(parts, np.concatenate) if groups > 1 or copy else part
                parts = []
    finally:
        iterator.close()
        if copy:
            # Spent iterators of Grain hang in reference cycles, each with its last shared arrays.
            iterator = part = None
            gc.collect()


def _load_group(
    number: int, *, source: Source, config: TrainConfig, groups: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """The ``number``-th group this process reads in the run, with leading axes B/S and 1."""
    step, local = divmod(int(number), len(groups))
    group = groups[local]
    sizes = crops_at(config.crops, resolution_at(config, step))
    config = dataclasses.replace(config, crops=sizes)
    slots = range(group * config.batch.group, (group + 1) * config.batch.group)
    samples = [step * config.batch.images + slot for slot in slots]
    records = mixture.records_at(source, config, step, slots)
    load = _load_crops if config.data.augment == "host" else _load_canvas
    images = load(source, config, samples, records)
    return {**images, **_draw_masks(config, step, group)}


def _load_crops(source, config, samples, records) -> dict[str, np.ndarray]:
    loaded = []
    for sample, record in zip(samples, records):
        image, found = _read(source, config.seed, sample, record)
        cut = crops.cut(image, _draw(config, sample, image), crops=config.crops)
        loaded.append({**cut, **found})
    return _join(loaded, np.stack)


def _load_canvas(source, config, samples, records) -> dict[str, np.ndarray]:
    side = config.data.canvas
    # One allocation for the group: stacking canvases would cost a fifth of their decoding.
    canvas = np.zeros((len(samples), side, side, 3), np.uint8)
    loaded = []
    for out, sample, record in zip(canvas, samples, records):
        image, found = _read(source, config.seed, sample, record, enough=side)
        draws = _draw(config, sample, image)
        draws["box"] *= place(image, out)
        loaded.append({**draws, **found})
    return {"canvas": canvas, **_join(loaded, np.stack)}


def _draw(config, sample, image) -> dict[str, np.ndarray]:
    rng = order.rng(config.seed, "augment", sample)
    return crops.draw(rng, height=image.shape[0], width=image.shape[1], crops=config.crops)


def _draw_masks(config: TrainConfig, step: int, group: int) -> dict[str, np.ndarray]:
    side = config.crops.global_size // config.student.stride
    masks = masking.group_masks(
        order.rng(config.seed, "masks", step, group),
        crops=2 * config.batch.group,
        grid=(side, side),
        probability=config.ibot.mask_probability,
        ratio=config.ibot.mask_ratio,
        circular_shift=config.ibot.circular_shift,
    )
    indices, weights = masking.mask_indices_and_weights(masks)
    return {
        "masks": masks.reshape(config.batch.group, 2, side * side),
        "mask_indices": indices[None],  # [1, M]
        "mask_weights": weights[None],
    }


def _read(source: Source, seed: int, sample: int, record: int, *, enough: int = 0):
    """Pixels for ``sample``, and which record they are after how many unreadable ones."""
    for attempt in range(_MAX_FAILURES):
        if attempt:
            record = mixture.replacement(source, record, seed, "replacement", sample, attempt)
        image = _decode(source, record, enough=enough)
        if image is not None:
            return image, {"record": np.int64(record), "skipped": np.int32(attempt)}
    raise SourceError(
        f"{_MAX_FAILURES} records in a row could not be read (the last is number {record}; the "
        "reasons are in the log); check data.path and the image files"
    )


def _load_eval_image(source: Source, index: int, *, size: int) -> np.ndarray | None:
    image = _decode(source, index)
    if image is None:
        return None
    height, width = image.shape[:2]
    short = min(height, width)
    target = size if short <= size else round(size * 256 / 224)
    h, w = (max(size, round(length * target / short)) for length in (height, width))
    image = crops.resize(image, h, w)
    top, left = (h - size) // 2, (w - size) // 2
    return image[top : top + size, left : left + size]


def _decode(source: Source, index: int, *, enough: int = 0) -> np.ndarray | None:
    """Pixels of one record, or None, with the reason in the log, if it cannot be read."""
    name = f"record {index}"
    try:
        record = source[index]
        name = f"{record.id} (record {index})"
        return decode(record.image, enough=enough)
    except (ValueError, OSError) as error:
        _log.warning("unreadable image %s: %s", name, error)
        return None


def _join(parts: list[dict[str, np.ndarray]], join) -> dict[str, np.ndarray]:
    return {key: join([part[key] for part in parts]) for key in parts[0]}
