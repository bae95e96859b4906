"""What the training side asks of a recipe, checked before anything is read or written."""

import operator

from jax.sharding import AbstractMesh, Mesh

from dinov3_jax.config import ConfigError, GramConfig, ScheduleConfig, TrainConfig, VitConfig
from dinov3_jax.data.check import check_config
from dinov3_jax.distributed.mesh import check_batch
from dinov3_jax.losses.gram import NEGATIVES
from dinov3_jax.models import presets
from dinov3_jax.train import step
from dinov3_jax.train.suite import check_suite


def check_recipe(config: TrainConfig, mesh: Mesh | AbstractMesh, *, platform: str) -> None:
    """Raises ``ConfigError`` for a recipe that could not run on ``mesh``, or not as written.

    ``platform`` of its devices: "cpu", "gpu" or "tpu".
    """
    presets.complete(config.student)
    check_config(config)
    _check_teachers(config)
    check_batch(config.batch, mesh)
    _check_attention("student", config.student, platform)
    if config.distill is not None:
        _check_attention("distill.backbone", config.distill.backbone, platform)
    _check_koleo(config)
    check_suite(config)
    step.scaled_lr(config)
    _one_of("teacher.centering", config.teacher.centering, ("sinkhorn", "softmax"))
    _one_of("optim.reduce_dtype", config.optim.reduce_dtype, ("float32", "bfloat16"))
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
        ("checkpoint.local_every", config.checkpoint.local_every),
    ):
        if value < 1:
            raise ConfigError(f"{name} is {value}, wanted at least 1")


# What the students of one run share: everything that the data side and the teacher read.
# And the steps at which they are saved: after a kill they go back to one that all have.
SHARED = ("seed", "batch", "data", "crops", "distill", "mesh", "log", "ibot.mask_probability",
          "ibot.mask_ratio", "ibot.circular_shift", "ibot.head.prototypes",
          "dino.head.prototypes", "student.stride", "checkpoint.every")  # fmt: skip


def check_students(configs: dict[str, TrainConfig]) -> None:
    """Raises ``ConfigError`` unless these recipes can be students of one run."""
    if len(configs) == 1:
        return
    (first, config), *others = configs.items()
    if config.distill is None:
        raise ConfigError("several students need a frozen teacher: set distill in their recipes")
    for path in SHARED:
        wanted = operator.attrgetter(path)(config)
        for name, other in others:
            got = operator.attrgetter(path)(other)
            if got != wanted:
                raise ConfigError(
                    f"students share {path}, but it is {wanted!r} in {first} and {got!r} in {name}"
                )


def _check_teachers(config: TrainConfig) -> None:
    """The Gram teacher, the frozen teacher and what a run starts from, as far as no disk tells."""
    gram, distill, init = config.gram, config.distill, config.init
    if gram is not None:
        _check_gram(gram, config)
    if distill is not None:
        presets.complete(distill.backbone, section="distill.backbone")
        for name, ours, theirs in (
            ("dino", config.dino.head, distill.dino_head),
            ("ibot", config.ibot.head, distill.ibot_head),
        ):
            if ours.prototypes != theirs.prototypes:
                raise ConfigError(
                    f"{name}.head.prototypes is {ours.prototypes}, the teacher's "
                    f"distill.{name}_head.prototypes {theirs.prototypes}; the student predicts the "
                    "teacher's prototypes: make them equal"
                )
    _one_of("init.student", init.student, ("student", "teacher"))
    if init.optimizer and (init.student != "student" or not init.heads):
        raise ConfigError(
            "init.optimizer goes on with the moments of the student: it needs "
            f"init.student='student' and init.heads=True, not {init.student!r} and {init.heads}"
        )
    if not init.from_ and init.optimizer:
        raise ConfigError("init.optimizer is set, but init.from names no run")


def _check_gram(gram: GramConfig, config: TrainConfig) -> None:
    if config.distill is not None:
        raise ConfigError("gram and distill are both set; a distillation has no Gram teacher")
    if config.student.convnext:
        raise ConfigError(f"gram is set for {config.student.arch!r}; Gram anchoring is for ViTs")
    _one_of("gram.teacher", gram.teacher, ("checkpoint", "ema_at_step", "ema"))
    _one_of("gram.level", gram.level, ("image", "group"))
    _one_of("gram.negatives", gram.negatives, NEGATIVES)
    _one_of("gram.tokens", gram.tokens, ("all", "masked", "unmasked"))
    _one_of("gram.resize", gram.resize, ("bicubic", "bilinear"))
    if gram.teacher == "ema_at_step" and not 0 <= (gram.load_step or 0) < config.steps:
        raise ConfigError(f"gram.load_step is {gram.load_step}, wanted 0 to {config.steps - 1}")
    if (gram.teacher == "ema_at_step") == (gram.load_step is None):
        raise ConfigError(
            f"gram.teacher is {gram.teacher!r} and gram.load_step {gram.load_step}; "
            "'ema_at_step' wants a step, the others None"
        )
    if gram.teacher == "ema" and gram.refresh_every is not None:
        raise ConfigError(
            "gram.teacher is 'ema', which is always fresh; set gram.refresh_every=None"
        )
    if gram.refresh_every is not None and gram.refresh_every < 1:
        raise ConfigError(f"gram.refresh_every is {gram.refresh_every}, wanted at least 1 or None")
    if gram.tokens != "all" and gram.level != "group":
        raise ConfigError(
            f"gram.tokens is {gram.tokens!r}, which picks patches of a whole group: set "
            "gram.level=group"
        )
    if gram.teacher != "checkpoint" and gram.source:
        raise ConfigError(
            f"gram.source is {gram.source!r}, but gram.teacher {gram.teacher!r} reads no run"
        )
    _check_schedule("gram.weight", gram.weight, config.steps)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}, wanted one of {', '.join(map(repr, allowed))}")


def _check_attention(section: str, backbone: VitConfig, platform: str) -> None:
    wanted = {"cudnn": "gpu", "pallas": "tpu"}.get(backbone.attention)
    if wanted not in (None, platform):
        raise ConfigError(
            f"{section}.attention is {backbone.attention!r}, which exists for {wanted!r} alone, "
            f"and the devices are {platform!r}; 'auto' takes what suits them"
        )


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
