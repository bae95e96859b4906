"""What a recipe costs on a topology: memory, time, money. Arithmetic on what others counted."""

import math
from typing import Any, NamedTuple

import jax

from dinov3_jax.config import ConvNextConfig, DataConfig, TrainConfig
from dinov3_jax.distributed.mesh import mesh_sizes
from dinov3_jax.models import presets
from dinov3_jax.plan.hlo import KINDS, Collective
from dinov3_jax.plan.topology import Topology
from dinov3_jax.train.flops import image_flops, recomputed_flops, step_flops
from dinov3_jax.train.state import init_state

# Hz, for which the compiler's cycles are turned into seconds.
CLOCK = {"v4": 1.05e9, "v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9}
# Bytes of a chip that programs can have (GiB as the compiler's own messages give them).
_USABLE = {"v4": 30.75, "v5e": 15.75, "v5p": 94.75, "v6e": 31.25}
# Of a GPU: what jax reserves unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
_GPU_SHARE = 0.75
# Images per CPU-second of ``benchmarks.data`` (docs/scale.md) by where crops are made;
# "device" with a canvas of that many pixels a side.
_HOST_RATE, _HOST_CANVAS = {"device": 820, "host": 145}, 576


class Time(NamedTuple):
    """Seconds of one step on a chip."""

    floor: float  # model FLOPs at peak
    compiler: float | None  # the compiler's cycles at the chip's clock
    hidden: float  # asynchronous collectives at the interconnect's bandwidth
    exposed: float  # synchronous ones

    @property
    def bound(self) -> float:
        """No step can be faster if compiler and data sheet are right."""
        return max(self.compiler or self.floor, self.hidden) + self.exposed

    @property
    def mfu(self) -> float:
        """Upper bound of the model FLOPs utilisation, 0 to 1."""
        return self.floor / self.bound


def step_time(
    configs: dict[str, TrainConfig], topology: Topology, found: list[Collective], cycles: int | None
) -> Time:
    chip = topology.chip
    moved = {True: 0, False: 0}
    for collective in found:
        moved[collective.asynchronous] += collective.times * collective.bytes
    return Time(
        floor=step_flops(configs) / topology.chips / chip.flops,
        compiler=cycles / CLOCK[topology.generation] if cycles else None,
        hidden=moved[True] / chip.interconnect,
        exposed=moved[False] / chip.interconnect,
    )


def state_bytes(states: dict, frozen: Any) -> dict[str, int]:
    """Bytes on one chip of each part of the state, from abstract arrays with shardings."""
    parts = {"student": 0, "teacher": 0, "gram_teacher": 0, "optimizer": 0, "frozen_teacher": 0}
    for state in states.values():
        for name in ("student", "teacher", "gram_teacher"):
            parts[name] += _bytes(getattr(state, name))
        parts["optimizer"] += _bytes((state.opt_state, state.centers, state.step))
    parts["frozen_teacher"] = _bytes(frozen)
    return parts


def _bytes(tree):
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def checkpoint_bytes(config: TrainConfig) -> int:
    """Size of one whole checkpoint of one student."""
    shapes = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def host_rate(data: DataConfig) -> float:
    """Images that one host core makes ready in a second, of pictures that fill the canvas.

    With ``data.augment`` "host" of 500 x 375 pixels.
    """
    rate = _HOST_RATE[data.augment]
    return rate * (_HOST_CANVAS / data.canvas) ** 2 if data.augment == "device" else rate


def capacity(topology: Topology) -> int:
    """Bytes of a chip's memory that a program can have."""
    usable = _USABLE.get(topology.generation)
    return int(usable * 2**30 if usable else _GPU_SHARE * topology.chip.hbm_bytes)


def activation_bytes(config: TrainConfig, chips: int) -> int:
    """What the student's forward pass keeps on one chip: an estimate, where no compiler tells.

    Arrays of the compute dtype that the blocks keep under ``student.remat``, with the gathered
    weights where that is "none", and three float32 copies of the logits. Not counted: work space of
    single operations. ``crops.mixture`` is None.
    """
    backbone = presets.complete(config.student)
    _, *shards, _ = mesh_sizes(config.mesh, chips)
    weights = math.prod(shards) > 1 and backbone.remat == "none"
    crops, images = config.crops, config.batch.images / chips / config.batch.accumulate
    if isinstance(backbone, ConvNextConfig):
        places = 2 * crops.global_size**2 + crops.local_count * crops.local_size**2
        kept = sum(
            depth * dim * 12 / (4 * 2**i) ** 2
            for i, (depth, dim) in enumerate(zip(backbone.stage_depths, backbone.stage_dims))
        )
        blocks = images * places * kept * 2
        if weights:
            sizes = zip(backbone.stage_depths, backbone.stage_dims)
            blocks += 2 * sum(depth * (8 * dim**2 + 49 * dim) for depth, dim in sizes)
    else:
        size, patch = 2 if backbone.dtype == "bfloat16" else 4, backbone.patch_size
        extra = 1 + backbone.storage_tokens
        tokens = 2 * ((crops.global_size // patch) ** 2 + extra)
        tokens += crops.local_count * ((crops.local_size // patch) ** 2 + extra)
        D, F = backbone.embed_dim, presets.ffn_hidden(backbone)
        fc1 = F * (2 if backbone.ffn == "swiglu" else 1)
        widths = {"qkv": 3 * D, "attention": D, "proj": D, "fc1": fc1}
        dropped = 1.0 - backbone.drop_path
        per_block = {
            "none": D + dropped * (sum(widths.values()) + 5 * D + 2 * F),
            "dots": D + dropped * (3 * D + D + fc1 + D),
            "full": D,
        }
        remat = backbone.remat
        kept = per_block.get(remat) or D + dropped * sum(widths[n] for n in remat.split("+"))
        layers = backbone.remat_blocks * D + (backbone.depth - backbone.remat_blocks) * kept
        blocks = images * tokens * layers * size
        if weights:
            blocks += (backbone.depth - backbone.remat_blocks) * D * (4 * D + fc1 + F) * size
    cls = images * (2 + crops.local_count) * config.dino.head.prototypes
    masked = images * 2 * config.ibot.mask_probability * sum(config.ibot.mask_ratio) / 2
    patches = (crops.global_size // config.student.stride) ** 2
    return int(blocks + 12 * (cls + masked * patches * config.ibot.head.prototypes))


def collective_rows(found: list[Collective]) -> dict[str, dict]:
    """By kind: how many in a step, bytes a chip receives, the share of them asynchronous."""
    rows = {}
    for kind in KINDS:
        ours = [c for c in found if c.kind == kind]
        total = sum(c.times * c.bytes for c in ours)
        if ours:
            hidden = sum(c.times * c.bytes for c in ours if c.asynchronous)
            rows[kind] = {
                "count": sum(c.times for c in ours),
                "bytes": total,
                "asynchronous": hidden / total if total else 1.0,
                "largest": max(c.size for c in ours),
            }
    return rows


def flops_rows(configs: dict[str, TrainConfig]) -> dict[str, float]:
    """FLOP of a step and, of the first student, per image; "recomputed" is in none of the sums."""
    first = next(iter(configs.values()))
    return {
        "step": step_flops(configs),
        "image": image_flops(first).total,
        **image_flops(first)._asdict(),
        "recomputed": recomputed_flops(first),
    }
