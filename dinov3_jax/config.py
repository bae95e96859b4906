"""The configuration schema: frozen dataclasses without defaults.

``configs/base.py`` gives every key its value, unit and meaning once; ``recipe.from_config_dict``
makes these of a recipe.
"""

import dataclasses


class ConfigError(ValueError):
    """A recipe that cannot run, and what to change in it."""


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    images: int
    group: int
    accumulate: int


@dataclasses.dataclass(frozen=True)
class VitConfig:
    arch: str
    patch_size: int
    in_channels: int
    embed_dim: int | None
    depth: int | None
    num_heads: int | None
    ffn: str | None
    ffn_ratio: float | None
    ffn_align: int | None
    qkv_bias: bool | None
    proj_bias: bool
    ffn_bias: bool
    mask_k_bias: bool
    norm: str
    norm_eps: float
    storage_tokens: int
    layerscale: float | None
    drop_path: float
    untie_cls_and_patch_norms: bool
    untie_global_and_local_cls_norm: bool
    rope_base: float | None
    rope_min_period: float | None
    rope_max_period: float | None
    rope_normalize: str
    rope_shift: float | None
    rope_jitter: float | None
    rope_rescale: float | None
    rope_dtype: str
    dtype: str
    remat: str
    remat_blocks: int
    attention: str
    fp8: bool
    stage_depths: tuple[int, int, int, int] | None
    stage_dims: tuple[int, int, int, int] | None

    @property
    def convnext(self) -> bool:
        return self.arch.startswith("convnext")

    @property
    def stride(self) -> int:
        """Pixels a side of what one patch token of ``forward`` stands for."""
        return 32 if self.convnext else self.patch_size


@dataclasses.dataclass(frozen=True)
class CompleteVitConfig(VitConfig):
    """A ``VitConfig`` whose sizes are all known (``models.presets.complete``)."""

    embed_dim: int
    depth: int
    num_heads: int
    ffn: str
    ffn_ratio: float
    ffn_align: int
    qkv_bias: bool
    # RoPE periods as a file of weights stores them; None: as the rope_* keys say. No recipe key.
    rope_periods: tuple[float, ...] | None


@dataclasses.dataclass(frozen=True)
class ConvNextConfig:
    """Everything a ConvNeXt is built from (``models.presets.complete``)."""

    arch: str
    patch_size: int | None  # of the grid that ``intermediate_layers`` imitates; None: its own
    in_channels: int
    stage_depths: tuple[int, int, int, int]
    stage_dims: tuple[int, int, int, int]
    dtype: str
    remat: str

    @property
    def embed_dim(self) -> int:
        return self.stage_dims[-1]

    @property
    def stride(self) -> int:
        """Pixels a side of what one patch token of ``forward`` stands for."""
        return 32


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    prototypes: int
    hidden: int
    bottleneck: int
    layers: int


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    family: str
    start: float
    peak: float
    end: float
    warmup: int
    cosine: int | None
    truncation: float


@dataclasses.dataclass(frozen=True)
class DinoConfig:
    weight: float
    ignore_diagonal: bool
    local_weight: ScheduleConfig
    head: HeadConfig


@dataclasses.dataclass(frozen=True)
class IbotConfig:
    weight: float
    head: HeadConfig
    mask_probability: float
    mask_ratio: tuple[float, float]
    circular_shift: bool


@dataclasses.dataclass(frozen=True)
class KoleoConfig:
    weight: float
    topk: int
    group: int | None


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    centering: str
    momentum: ScheduleConfig
    temperature: ScheduleConfig


@dataclasses.dataclass(frozen=True)
class GramConfig:
    weight: ScheduleConfig
    teacher: str
    source: str
    step: int | None
    load_step: int | None
    refresh_first: int
    refresh_every: int | None
    refresh_count: int | None
    level: str
    normalize: bool
    negatives: str
    tokens: str
    resize: str
    antialias: bool
    stats: bool


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    source: str
    step: int | None
    backbone: VitConfig
    dino_head: HeadConfig
    ibot_head: HeadConfig
    resolution_scale: float


@dataclasses.dataclass(frozen=True)
class InitConfig:
    from_: str
    step: int | None
    student: str
    heads: bool
    optimizer: bool


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    lr: ScheduleConfig
    lr_scaling: str
    weight_decay: ScheduleConfig
    beta1: float
    beta2: float
    clip: float | None
    layer_decay: float
    patch_embed_lr: float
    freeze_last_layer: int
    freeze_backbone: int
    reduce_dtype: str


@dataclasses.dataclass(frozen=True)
class DataConfig:
    source: str
    path: str
    labels: str
    mixture: tuple[tuple[str, str, str, float], ...] | None
    homogeneous: tuple[tuple[str, float], ...] | None
    augment: str
    canvas: int
    threads: int
    workers: int
    buffer: int
    max_bad_fraction: float


@dataclasses.dataclass(frozen=True)
class CropConfig:
    global_size: int
    global_scale: tuple[float, float]
    local_count: int
    local_size: int
    local_scale: tuple[float, float]
    gram_size: int | None
    gram_distortions: bool
    mixture: tuple[tuple[int, int, int | None, float], ...] | None
    horizontal_flip: bool
    jitter_probability: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    gray_probability: float
    blur_probability: tuple[float, float, float]
    blur_sigma: tuple[float, float]
    solarize_probability: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    replica: int
    fsdp: int
    fsdp_minor: int
    tensor: int


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    every: int
    source: str
    bank: str
    queries: str
    bank_size: int
    query_size: int
    neighbours: int
    suite: tuple[tuple[str, str, tuple[str, ...]], ...]
    health_images: int


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every: int
    keep: int
    keep_every: int | None
    local: str | None
    local_every: int


@dataclasses.dataclass(frozen=True)
class LogConfig:
    every: int
    profile_start: int | None
    profile_steps: int
    max_nan_steps: int


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    name: str
    seed: int
    steps: int
    batch: BatchConfig
    student: VitConfig
    dino: DinoConfig
    ibot: IbotConfig
    koleo: KoleoConfig
    teacher: TeacherConfig
    gram: GramConfig | None
    distill: DistillConfig | None
    init: InitConfig
    optim: OptimConfig
    data: DataConfig
    crops: CropConfig
    mesh: MeshConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    log: LogConfig
