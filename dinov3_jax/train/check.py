"""What the training side asks of a recipe, checked before anything is read or written."""

from jax.sharding import Mesh

from dinov3_jax.config import ConfigError, ScheduleConfig, TrainConfig
from dinov3_jax.data.check import check_config
from dinov3_jax.distributed.mesh import check_batch
from dinov3_jax.models import presets
from dinov3_jax.train import step


def check_recipe(config: TrainConfig, mesh: Mesh) -> None:
    """Raises ``ConfigError`` for a recipe that could not run on ``mesh``, or not as written."""
    presets.complete(config.student)
    check_config(config)
    check_batch(config.batch, mesh)
    _check_koleo(config)
    step.scaled_lr(config)
    if config.teacher.centering not in ("sinkhorn", "softmax"):
        raise ConfigError(
            f"teacher.centering is {config.teacher.centering!r}, wanted 'sinkhorn' or 'softmax'"
        )
    for name, schedule in (
        ("optim.lr", config.optim.lr),
        ("optim.weight_decay", config.optim.weight_decay),
        ("teacher.momentum", config.teacher.momentum),
        ("teacher.temperature", config.teacher.temperature),
        ("dino.local_weight", config.dino.local_weight),
    ):
        _check_schedule(name, schedule, config.steps)
    temperature = config.teacher.temperature
    if min(temperature.start, temperature.peak, temperature.end) <= 0.0:
        raise ConfigError(f"teacher.temperature must stay above 0, it is {temperature}")
    if config.log.profile_start is not None and config.log.profile_start >= config.steps:
        raise ConfigError(
            f"log.profile_start is {config.log.profile_start}, wanted below steps {config.steps}"
        )
    for name, value in (
        ("steps", config.steps),
        ("batch.accumulate", config.batch.accumulate),
        ("log.every", config.log.every),
        ("eval.every", config.eval.every),
        ("checkpoint.every", config.checkpoint.every),
    ):
        if value < 1:
            raise ConfigError(f"{name} is {value}, wanted at least 1")


def _check_schedule(name: str, schedule: ScheduleConfig, steps: int) -> None:
    if schedule.family not in ("v1", "v2"):
        raise ConfigError(f"{name}.family is {schedule.family!r}, wanted 'v1' or 'v2'")
    if not 0 <= schedule.warmup <= steps:
        raise ConfigError(
            f"{name}.warmup is {schedule.warmup} steps, the run has {steps}; set "
            f"--config.{name}.warmup to at most that"
        )
    if schedule.cosine is not None and schedule.cosine < 1:
        raise ConfigError(f"{name}.cosine is {schedule.cosine} steps, wanted at least 1 or None")


def _check_koleo(config: TrainConfig) -> None:
    batch, koleo = config.batch, config.koleo
    size = koleo.group or batch.group
    if batch.images % size or (size % batch.group and batch.group % size):
        raise ConfigError(
            f"koleo.group is {size}; it must divide batch.images {batch.images} and be a multiple "
            f"or a divisor of batch.group {batch.group}"
        )
    if size > batch.group and batch.accumulate > 1:
        raise ConfigError(
            f"koleo.group {size} above batch.group {batch.group} does not go with "
            f"batch.accumulate {batch.accumulate}: micro-batches would tear KoLeo groups apart"
        )
    if size > 1 and not 1 <= koleo.topk < size:
        raise ConfigError(f"koleo.topk is {koleo.topk}, wanted 1 to {size - 1} in groups of {size}")
