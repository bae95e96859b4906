"""Packing on Apache Beam: the shards of a folder, each written by whichever worker takes it."""

import functools
from typing import Any

from dinov3_jax.config import ConfigError
from dinov3_jax.data.pack import Settings, write_shard
from dinov3_jax.data.record import Source, SourceError
from dinov3_jax.data.sources import open_kind

# Of Beam's local runner, a thread a core; other runners ignore the rest. Decoding and writing
# leave Python free for other threads, and processes take seconds to start.
_LOCAL = (
    "--runner=FnApiRunner",  # "DirectRunner" is this one or a binary that it tries to download
    "--direct_running_mode=multi_threading",
    "--direct_num_workers=0",
)


def write_shards_on_beam(
    settings: Settings, path: str, folder: str, numbers: list[int], flags: list[str]
):
    """Writes shards ``numbers`` of the source at ``path``; returns when all are there.

    flags: of Beam, e.g. ``--runner=FlinkRunner``; the local runner on all cores without any. All
    workers must see ``path`` and ``folder`` under these names.
    """
    beam, options = _import_beam()
    write = functools.partial(_write, settings=settings, path=path, folder=folder)
    with beam.Pipeline(options=options.PipelineOptions([*_LOCAL, *flags])) as pipeline:
        # Reshuffle: without it one worker would be handed all numbers.
        _ = pipeline | beam.Create(numbers) | beam.Reshuffle() | beam.Map(write)


def _write(number: int, *, settings: Settings, path: str, folder: str):
    write_shard(_source(settings, path), settings, number, folder)


@functools.lru_cache(1)
def _source(settings: Settings, path: str) -> Source:
    """Listed anew in each worker: a listing of millions is too much to send with the work."""
    source = open_kind(settings.source, path, labels=settings.labels)
    if source.fingerprint != settings.listing:
        raise SourceError(f"the listing of {path} has changed since packing began; start anew")
    return source


def _import_beam() -> tuple[Any, Any]:
    try:
        import apache_beam
        from apache_beam.options import pipeline_options
    except ImportError as error:
        raise ConfigError(
            "packing runs on Apache Beam, which is not here: pip install 'dinov3_jax[beam]'"
        ) from error
    return apache_beam, pipeline_options
