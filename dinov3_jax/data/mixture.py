"""Mixtures: which source each image of a run comes from, and which record of it.

A step is homogeneous, all its images of one source, or mixed, each image's source drawn by the
weights of ``data.mixture``. Both draws are stratified: every 1,000 steps, and every 1,000 images of
mixed steps, hold the shares exactly (rounded to 1/1,000), in an order hashed from the seed. So
there is no state: how often a source was drawn before any point is counted from the step number,
and that count is the place in the source's own order, which passes over all its records before any
comes again.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from dinov3_jax.config import TrainConfig
from dinov3_jax.data import order
from dinov3_jax.data.record import Record, Source, fingerprint

BLOCK = 1000  # draws in which the shares are exact


@dataclasses.dataclass(frozen=True, eq=False)
class MixtureSource:
    """The parts one after another, in the order of ``data.mixture``; ids begin with their names."""

    names: tuple[str, ...]
    parts: tuple[Source, ...]
    ends: np.ndarray  # int64 [parts], records up to and including each
    fingerprint: str
    labels: None = None  # classes of different sets have nothing to do with each other
    classes: None = None

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index}, wanted 0..{len(self) - 1}")
        part = int(np.searchsorted(self.ends, index, side="right"))
        record = self.parts[part][index - int(self.ends[part]) + len(self.parts[part])]
        return Record(record.image, f"{self.names[part]}/{record.id}", None)


def join(parts: dict[str, Source]) -> MixtureSource:
    """One source of several, by name."""
    return MixtureSource(
        names=tuple(parts),
        parts=tuple(parts.values()),
        ends=np.cumsum([len(part) for part in parts.values()], dtype=np.int64),
        fingerprint=fingerprint(f"{name} {part.fingerprint}" for name, part in parts.items()),
    )


def records_at(source: Source, config: TrainConfig, step: int, slots: range) -> list[int]:
    """Records of the images ``slots``, of 0 .. B-1, in step ``step``.

    Depends on (seed, step, slot) alone. Without a mixture it is ``order.record_index``.
    """
    images = config.batch.images
    if not isinstance(source, MixtureSource):
        samples = np.arange(slots.start, slots.stop) + step * images
        return order.record_index(samples, size=len(source), seed=config.seed).tolist()
    steps, kind = _steps(config, step)
    begun = _begun(config, step)
    records = []
    for slot in slots:
        if kind < len(source.parts):
            part, place = kind, begun[kind] + slot
        else:
            drawn, part = _images(config, steps[-1] * images + slot)
            place = steps[part] * images + drawn[part]
        size = len(source.parts[part])
        seed = order.hashed(1 << 62, config.seed, "mixture", part)
        record = order.record_index(place, size=size, seed=seed)
        records.append(int(source.ends[part]) - size + int(record))
    return records


def replacement(source: Source, record: int, *parts: int | str) -> int:
    """Another record of the set that ``record`` is of, hashed from ``parts``."""
    first, size = 0, len(source)
    if isinstance(source, MixtureSource):
        part = int(np.searchsorted(source.ends, record, side="right"))
        size = len(source.parts[part])
        first = int(source.ends[part]) - size
    return first + order.hashed(size, *parts)


def images_seen(config: TrainConfig, step: int) -> dict[str, float]:
    """``images_seen/NAME``: images of each source in steps 0 .. step-1; {} without a mixture."""
    if config.data.mixture is None:
        return {}
    names = [f"images_seen/{name}" for name, *_ in config.data.mixture]
    return dict(zip(names, map(float, _begun(config, step))))


def quotas(shares: Sequence[float]) -> tuple[int, ...]:
    """Shares (>= 0, any sum above 0) -> whole numbers of ``BLOCK`` draws, by largest remainder."""
    exact = np.array(shares, np.float64) / sum(shares) * BLOCK
    whole = np.floor(exact + 1e-9).astype(np.int64)  # 0.1 + 0.2 is a little off 0.3
    largest = np.argsort(whole - exact, kind="stable")[: BLOCK - whole.sum()]
    whole[largest] += 1
    return tuple(whole.tolist())


def _begun(config: TrainConfig, step: int) -> np.ndarray:
    """int64 [parts]: images of each source in the steps before ``step``."""
    steps, _ = _steps(config, step)
    drawn, _ = _images(config, steps[-1] * config.batch.images)
    return steps[:-1] * config.batch.images + drawn


def _steps(config: TrainConfig, step: int) -> tuple[np.ndarray, int]:
    """Draw of the step: number of its source if it is homogeneous, else of sources."""
    data = config.data
    chances = dict(data.homogeneous or ())
    each = [chances.get(name, 0.0) for name, *_ in data.mixture or ()]
    return _draw(quotas([*each, 1 - sum(each)]), step, config.seed, "mixture: steps")


def _images(config: TrainConfig, image: int) -> tuple[np.ndarray, int]:
    """Draw of the ``image``-th image of all mixed steps: number of its source."""
    weights = [weight for *_, weight in config.data.mixture or ()]
    if not any(weights):  # all steps are homogeneous
        return np.zeros(len(weights), np.int64), 0
    return _draw(quotas(weights), int(image), config.seed, "mixture: images")


def _draw(each: tuple[int, ...], index: int, seed: int, purpose: str) -> tuple[np.ndarray, int]:
    """(int64 [choices], how often each was drawn before; the choice of draw ``index``)."""
    block, position = divmod(index, BLOCK)
    choices = _block(each, seed, purpose, block)
    counts = np.bincount(choices[:position], minlength=len(each)) + block * np.array(each)
    return counts, int(choices[position])


@functools.lru_cache(64)
def _block(each: tuple[int, ...], seed: int, purpose: str, block: int) -> np.ndarray:
    """int64 [BLOCK]: every choice as often as its quota, in hashed order."""
    key = order.hashed(1 << 62, seed, purpose)
    places = order.permute(np.arange(BLOCK), size=BLOCK, seed=key, epoch=block)
    return np.repeat(np.arange(len(each)), each)[places]
