"""The schema of a curation recipe; ``configs/curation/base.py`` gives each key its meaning."""

import dataclasses
from collections.abc import Collection

from dinov3_jax.config import ConfigError
from dinov3_jax.curation.hierarchy import Level, check_levels
from dinov3_jax.data.stored import Recode


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    size: int
    fit: str
    dtype: str
    batch: int
    part: int


@dataclasses.dataclass(frozen=True)
class DedupConfig:
    whiten: int | None
    threshold: float | None
    neighbours: int
    probes: int | None
    against_threshold: float


@dataclasses.dataclass(frozen=True)
class LevelConfig:
    clusters: int
    split: int
    resamplings: int
    kept: int


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    budget: int


@dataclasses.dataclass(frozen=True)
class RetrieveConfig:
    large: int
    neighbours: int
    neighbours_of: tuple[tuple[str, int], ...]
    probes: int | None
    level: int
    more_than: int
    each: int
    budget: int


@dataclasses.dataclass(frozen=True)
class PackConfig:
    shard_size: int
    longest: int | None
    quality: int | None


@dataclasses.dataclass(frozen=True)
class CurationConfig:
    name: str
    seed: int
    embed: EmbedConfig
    dedup: DedupConfig
    levels: tuple[LevelConfig, ...]
    iterations: int
    sample: SampleConfig
    retrieve: RetrieveConfig
    pack: PackConfig | None


def levels(recipe: CurationConfig) -> list[Level]:
    """The levels as ``curation.hierarchy`` takes them, lowest first."""
    return [Level(**dataclasses.asdict(level)) for level in recipe.levels]


def check_recipe(recipe: CurationConfig, images: int, what: str) -> None:
    """``ConfigError`` unless the recipe can be carried out on so many images.

    ``what`` says what these are: asked again when images have been dropped.
    """
    dedup, retrieve, pack = recipe.dedup, recipe.retrieve, recipe.pack
    try:
        check_levels(levels(recipe), images)
    except ValueError as error:
        raise ConfigError(f"recipe for {images} images ({what}): {error}") from error
    if not 1 <= recipe.sample.budget <= images:
        raise ConfigError(
            f"sample.budget is {recipe.sample.budget}, but there are {images} images ({what}); "
            f"wanted 1 to {images}"
        )
    if not 1 <= retrieve.level <= len(recipe.levels):
        raise ConfigError(
            f"retrieve.level is {retrieve.level}, wanted 1 to {len(recipe.levels)}, the levels"
        )
    for name, value, least in (
        ("iterations", recipe.iterations, 1),
        ("dedup.neighbours", dedup.neighbours, 1),
        ("dedup.whiten", 1 if dedup.whiten is None else dedup.whiten, 1),
        ("retrieve.large", retrieve.large, 0),
        ("retrieve.neighbours", retrieve.neighbours, 1),
        *((f"retrieve.neighbours_of {name}", k, 1) for name, k in retrieve.neighbours_of),
        ("retrieve.more_than", retrieve.more_than, 0),
        ("retrieve.each", retrieve.each, 1),
        ("retrieve.budget", retrieve.budget, 1),
        *(
            (f"{name}.probes", section.probes, 1)
            for name, section in (("dedup", dedup), ("retrieve", retrieve))
            if section.probes is not None
        ),
        *([("pack.shard_size", pack.shard_size, 1)] if pack is not None else []),
    ):
        if value < least:
            raise ConfigError(f"{name} is {value}, wanted at least {least}")
    for name, value in (
        ("dedup.threshold", dedup.threshold),
        ("dedup.against_threshold", dedup.against_threshold),
    ):
        if value is not None and not -1 <= value <= 1:
            raise ConfigError(f"{name} is {value}, wanted a cosine from -1 to 1")
    if pack is not None:
        try:
            Recode(pack.longest, pack.quality)
        except ValueError as error:
            raise ConfigError(f"pack.{error}") from error


def check_seeds(recipe: CurationConfig, names: Collection[str]) -> None:
    """``ConfigError`` if the recipe speaks of a seed set that is not among ``names``."""
    unknown = [name for name, _ in recipe.retrieve.neighbours_of if name not in names]
    if unknown:
        raise ConfigError(
            f"retrieve.neighbours_of speaks of {', '.join(unknown)}, but the seed sets are "
            f"{', '.join(names) or 'none'}; give --seeds={unknown[0]}=PATH, or change that key"
        )
