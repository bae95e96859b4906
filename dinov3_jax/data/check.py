"""What the data side asks of a recipe, checked before anything is read."""

from dinov3_jax.config import ConfigError, TrainConfig


def check_config(config: TrainConfig, *, process_count: int = 1):
    """Raises ConfigError if the data side cannot serve the recipe."""
    batch, data, cut, ibot = config.batch, config.data, config.crops, config.ibot
    patch = config.student.patch_size
    low, high = ibot.mask_ratio
    positive = {
        "batch.images": batch.images,
        "batch.group": batch.group,
        "student.patch_size": patch,
        "crops.global_size": cut.global_size,
        "crops.local_size": cut.local_size,
        "data.threads": data.threads,
        "data.buffer": data.buffer,
        "data.canvas": data.canvas,
    }
    for name, value in positive.items():
        _require(value >= 1, f"{name} is {value}, wanted at least 1")
    for name in ("global_size", "local_size"):
        size = getattr(cut, name)
        near = [str(n * patch) for n in (size // patch, size // patch + 1) if n]
        _require(
            size % patch == 0,
            f"crops.{name} is {size}, not a multiple of student.patch_size {patch}; "
            f"take {' or '.join(near)}",
        )
    _require(
        batch.images % (batch.group * process_count) == 0,
        f"batch.images is {batch.images}, wanted whole groups of batch.group = {batch.group} on "
        f"each of {process_count} processes: a multiple of {batch.group * process_count}",
    )
    _require(
        data.augment in ("host", "device"),
        f"data.augment is {data.augment!r}, wanted 'host' or 'device'",
    )
    _require(data.workers >= 0, f"data.workers is {data.workers}, wanted 0 or more")
    _require(cut.local_count >= 0, f"crops.local_count is {cut.local_count}, wanted 0 or more")
    _require(
        config.student.in_channels == 3,
        f"student.in_channels is {config.student.in_channels}, but images are read as RGB; take 3",
    )
    for name in ("global_scale", "local_scale"):
        scale = getattr(cut, name)
        _require(
            0 < scale[0] <= scale[1] <= 1, f"crops.{name} is {scale}, wanted 0 < from <= to <= 1"
        )
    _require(
        0 < cut.blur_sigma[0] <= cut.blur_sigma[1],
        f"crops.blur_sigma is {cut.blur_sigma}, wanted 0 < from <= to",
    )
    _require(0 <= low <= high <= 1, f"ibot.mask_ratio is {low, high}, wanted 0 <= from <= to <= 1")
    _require(
        0 <= ibot.mask_probability <= 1,
        f"ibot.mask_probability is {ibot.mask_probability}, wanted 0..1",
    )


def _require(fine: bool, message: str):
    if not fine:
        raise ConfigError(message)
