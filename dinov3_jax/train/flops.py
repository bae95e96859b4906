"""Model FLOPs of a train step, counted from the recipe alone.

A multiplication and an addition are 2 FLOP. Counted are matmuls, convolutions and attention; the
losses, norms, optimizer and EMA are not (below 1 % of a step). What trains costs three times its
forward, the patch embedding twice (no gradient goes to pixels); teachers cost their forward.
Nothing counts that is computed twice to save memory (``remat``): these FLOPs over time and peak
FLOP/s are the model FLOPs utilisation (MFU).

    block of a ViT, T tokens:  2 T (4 D² + 2 D F) + 4 T² D     (3 D F with SwiGLU)
    block of a ConvNeXt:       2 h w (49 C + 8 C²)
    head, per vector:          2 (D H + (layers - 2) H² + H · bottleneck + bottleneck · K)
"""

import itertools
from typing import NamedTuple

from dinov3_jax.config import (
    CompleteVitConfig,
    ConvNextConfig,
    CropConfig,
    HeadConfig,
    TrainConfig,
)
from dinov3_jax.data.masking import masked_total
from dinov3_jax.data.resolution import crops_at
from dinov3_jax.models import presets
from dinov3_jax.models.block import kept_samples
from dinov3_jax.train.state import has_gram_teacher


class Flops(NamedTuple):
    """FLOP per image of the global batch; ``total`` is their sum."""

    student: float  # patch embedding and blocks, forward and backward, after stochastic depth
    student_attention: float  # q kᵀ and the sum over v, likewise
    student_heads: float
    teacher: float  # the EMA teacher or the frozen one: all of its backbone
    teacher_heads: float
    gram_teacher: float

    @property
    def total(self) -> float:
        return sum(self)


class Forward(NamedTuple):
    """FLOP of one image's forward through a backbone."""

    embed: float  # patch embedding or stem
    blocks: float  # everything else but attention
    attention: float


def step_flops(configs: dict[str, TrainConfig]) -> float:
    """FLOP of one step on the global batch, by name of the student as in ``step_program``.

    Several students share one teacher, whose forward counts once. With ``crops.mixture``: the mean
    over its sizes.
    """
    each = [image_flops(config) for config in configs.values()]
    shared = each[0].teacher + each[0].teacher_heads
    images = next(iter(configs.values())).batch.images
    return images * (shared + sum(f.total - f.teacher - f.teacher_heads for f in each))


def image_flops(config: TrainConfig) -> Flops:
    """FLOP per image of a step; with ``crops.mixture`` the mean over its sizes by their shares."""
    shares = [share for *_, share in config.crops.mixture or ((1.0,),)]
    parts = [_at(config, crops_at(config.crops, i)) for i in range(len(shares))]
    return Flops(*(sum(s * f for s, f in zip(shares, row)) / sum(shares) for row in zip(*parts)))


def recomputed_flops(config: TrainConfig) -> float:
    """FLOP per image that ``student.remat`` computes again in the backward pass; no model FLOPs.

    Matmuls and convolutions of blocks that are not kept, as jax differentiates them: attention
    unless all is kept (its output alone does not give its gradient), never the last matrix of a
    transformer block, whose output no gradient needs. With ``crops.mixture``: the mean over its
    sizes.
    """
    shares = [share for *_, share in config.crops.mixture or ((1.0,),)]
    again = [_recomputed(config, crops_at(config.crops, i)) for i in range(len(shares))]
    return sum(s * f for s, f in zip(shares, again)) / sum(shares)


def _recomputed(config, crops):
    backbone, total = presets.complete(config.student), 0.0
    for count, side in _crops(crops):
        if isinstance(backbone, ConvNextConfig):
            total += count * _convnext_again(backbone, side)
        else:
            group = config.batch.group
            kept = kept_samples(group * count, backbone.drop_path) / group
            total += kept * _vit_again(backbone, side)
    return total


def _vit_again(config, side):
    """Of one image that no branch drops."""
    dim, hidden = config.embed_dim, presets.ffn_hidden(config)
    tokens = (side // config.patch_size) ** 2 + 1 + config.storage_tokens
    hidden_matrices = {"mlp": 1, "swiglu": 2}[config.ffn]
    matrices = {"qkv": 3 * dim**2, "proj": dim**2, "fc1": hidden_matrices * dim * hidden}
    attention = 4 * tokens**2 * dim

    def block(remat):
        kept = {"full": (), "dots": tuple(matrices)}.get(remat, remat.split("+"))
        again = sum(size for name, size in matrices.items() if name not in kept)
        return 0 if remat == "none" else 2 * tokens * again + attention

    full = config.remat_blocks
    return full * block("full") + (config.depth - full) * block(config.remat)


def _convnext_again(config, side):
    # Here LayerScale's gradient needs what the last matrix writes.
    again = {"none": (0, 0), "dots": (49, 0), "full": (49, 8)}[config.remat]
    return sum(
        depth * 2 * (side // (4 * 2**i)) ** 2 * (again[0] * dim + again[1] * dim**2)
        for i, (depth, dim) in enumerate(zip(config.stage_depths, config.stage_dims))
    )


def forward_flops(backbone: CompleteVitConfig | ConvNextConfig, height: int, width: int) -> Forward:
    """Of one image of that many pixels, multiples of the stride."""
    if isinstance(backbone, ConvNextConfig):
        return _convnext(backbone, height, width)
    dim, patch, hidden = backbone.embed_dim, backbone.patch_size, presets.ffn_hidden(backbone)
    patches = (height // patch) * (width // patch)
    tokens = patches + 1 + backbone.storage_tokens
    matrices = {"mlp": 2, "swiglu": 3}[backbone.ffn]
    return Forward(
        2 * patches * patch**2 * backbone.in_channels * dim,
        backbone.depth * 2 * tokens * (4 * dim**2 + matrices * dim * hidden),
        backbone.depth * 4 * tokens**2 * dim,
    )


def head_flops(dim: int, head: HeadConfig) -> float:
    """Of one vector's forward through a projection head."""
    hidden = [head.hidden] * (head.layers - 1)
    widths = [dim, *hidden, head.bottleneck, head.prototypes]
    return 2 * sum(a * b for a, b in itertools.pairwise(widths))


def _convnext(config, height, width):
    downsample, blocks, inputs = [], 0, config.in_channels
    for i, (depth, dim) in enumerate(zip(config.stage_depths, config.stage_dims)):
        kernel, stride = (2 if i else 4), 4 * 2**i
        positions = (height // stride) * (width // stride)
        downsample.append(2 * positions * kernel**2 * inputs * dim)
        blocks += depth * 2 * positions * (49 * dim + 8 * dim**2)
        inputs = dim
    return Forward(downsample[0], sum(downsample[1:]) + blocks, 0)


def _crops(crops):
    """(how many of an image, their side) of the student's crops."""
    both = ((2, crops.global_size), (crops.local_count, crops.local_size))
    return [(count, side) for count, side in both if count]


def _at(config: TrainConfig, crops: CropConfig) -> Flops:
    """Of crops of these sizes; two of them are global."""
    group, side, n_local = config.batch.group, crops.global_size, crops.local_count
    backbone = presets.complete(config.student)
    blocks = attention = 0.0
    for count, size in _crops(crops):
        one = forward_flops(backbone, size, size)
        kept = kept_samples(group * count, config.student.drop_path) / group
        blocks += 2 * count * one.embed + 3 * kept * one.blocks
        attention += 3 * kept * one.attention

    ours = (config.dino.head, config.ibot.head)
    teacher, heads, seen = backbone, ours, side
    if config.distill is not None:
        teacher = presets.complete(config.distill.backbone)
        heads = (config.distill.dino_head, config.distill.ibot_head)
        seen = round(side / config.distill.resolution_scale)
    masked = masked_total(
        crops=2 * group,
        patches=(side // config.student.stride) ** 2,
        probability=config.ibot.mask_probability,
        ratio=config.ibot.mask_ratio,
    )

    def both(dim, n_cls, heads):
        """Of the DINO and the iBOT head on the vectors of one image."""
        return n_cls * head_flops(dim, heads[0]) + masked / group * head_flops(dim, heads[1])

    gram_side = crops.gram_size or side
    gram = 2 * sum(forward_flops(backbone, gram_side, gram_side))
    return Flops(
        student=blocks,
        student_attention=attention,
        student_heads=3 * both(backbone.embed_dim, 2 + n_local, ours),
        teacher=2 * sum(forward_flops(teacher, seen, seen)),
        teacher_heads=both(teacher.embed_dim, 2, heads),
        gram_teacher=gram if has_gram_teacher(config) else 0.0,
    )
