"""What the data side asks of a recipe, checked before anything is read."""

import math

from dinov3_jax.config import ConfigError, CropConfig, DataConfig, TrainConfig, VitConfig
from dinov3_jax.data.mixture import BLOCK, quotas
from dinov3_jax.data.resolution import crops_at


def check_config(config: TrainConfig):
    """Raises ConfigError if the data side cannot serve the recipe."""
    batch, data, cut, ibot = config.batch, config.data, config.crops, config.ibot
    low, high = ibot.mask_ratio
    positive = {
        "batch.images": batch.images,
        "batch.group": batch.group,
        "student.patch_size": config.student.patch_size,
        "data.threads": data.threads,
        "data.buffer": data.buffer,
        "data.canvas": data.canvas,
    }
    for name, value in positive.items():
        _require(value >= 1, f"{name} is {value}, wanted at least 1")
    _check_mixture(data)
    _check_crop_sizes(config)
    _require(
        batch.images % batch.group == 0,
        f"batch.images is {batch.images}, wanted whole groups of batch.group = {batch.group}: a "
        f"multiple of {batch.group}",
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


def _check_mixture(data: DataConfig):
    if data.mixture is None:
        _require(
            data.homogeneous is None,
            f"data.homogeneous is {data.homogeneous}, but data.mixture is None; list the sources "
            "there, or set data.homogeneous to None",
        )
        return
    _require(
        not data.path,
        f"data.path is {data.path!r}, but data.mixture names the data; set one of the two",
    )
    names = [name for name, *_ in data.mixture]
    weights = [weight for *_, weight in data.mixture]
    chances = dict(data.homogeneous or ())
    _require(
        len(set(names)) == len(names) >= 1 and all(names),
        f"data.mixture has the sources {names}, wanted at least one, each with a name of its own",
    )
    _require(
        set(chances) <= set(names) and len(chances) == len(data.homogeneous or ()),
        f"data.homogeneous is {data.homogeneous}, wanted names of data.mixture, each once: {names}",
    )
    shares = list(chances.values())
    _require(
        all(share > 0 for share in shares) and sum(shares) <= 1 + 1e-9,
        f"data.homogeneous has the shares {shares}, wanted all above 0 and a sum of at most 1",
    )
    mixed = sum(shares) < 1 - 1e-9
    _require(
        min(weights) >= 0 and sum(weights) < math.inf and (sum(weights) > 0 or not mixed),
        f"data.mixture has the weights {weights}, wanted none below 0 and a sum above 0",
    )
    for name, weight in zip(names, weights):
        _require(
            weight > 0 or name in chances,
            f"source {name!r} of data.mixture is never drawn: its weight is 0 and data.homogeneous "
            "does not name it; leave it out or give it a share",
        )
    drawn = [*zip(names, quotas(weights), weights)] if mixed else []
    drawn += [(name, quotas([share, 1 - share])[0], share) for name, share in chances.items()]
    for name, quota, share in drawn:
        _require(
            quota > 0 or share == 0,
            f"source {name!r} has {share:g}, less than half of 1/{BLOCK} of the whole, and would "
            "never be drawn; give it more, or join it to another source",
        )


def _check_crop_sizes(config: TrainConfig):
    crops = config.crops
    _check_sizes(config, crops, "crops.{}_size")  # with a mixture too: evaluations use global_size
    if crops.mixture is None:
        _check_use(config, crops, "crops.{}_size")
        return
    shares = [share for *_, share in crops.mixture]
    _require(
        len(shares) > 0,
        "crops.mixture is empty; list entries (global, local, gram or None, share) or take None",
    )
    _require(
        min(shares) >= 0 and 0 < sum(shares) < math.inf,
        f"crops.mixture has the shares {shares}, wanted none below 0 and a sum above 0",
    )
    for i in range(len(shares)):
        for check in (_check_sizes, _check_use):
            check(config, crops_at(crops, i), f"crops.mixture[{i}] {{}} size")


def _check_sizes(config: TrainConfig, crops: CropConfig, name: str):
    """One resolution by itself; ``name`` makes the name of a size of "global", "local", "gram"."""
    gram, student = config.gram, config.student
    for kind, size in _sizes(crops).items():
        _require(size >= 1, f"{name.format(kind)} is {size}, wanted at least 1")
    if crops.gram_size is not None:
        what = f"{name.format('gram')} is {crops.gram_size}"
        _require(
            gram is not None,
            f"{what}, but config.gram is None; set the size to None, or config.gram to "
            "configs.base.gram()",
        )
        _require(
            gram is None or gram.teacher != "ema",
            f"{what}, but gram.teacher is 'ema', and the EMA teacher sees the global crops "
            "themselves; set the size to None, or take another gram.teacher",
        )
        _require(
            crops.gram_size >= crops.global_size,
            f"{what}, smaller than {name.format('global')} {crops.global_size}; take at least "
            f"{crops.global_size}, or None for a Gram teacher that sees the global crops",
        )
    for kind, size in _sizes(crops).items():
        near = [n * student.stride for n in (size // student.stride, size // student.stride + 1)]
        _require(
            size % student.stride == 0,
            f"{name.format(kind)} is {size}, not a multiple of {_stride('student', student)}; "
            f"take {' or '.join(str(n) for n in near if n)}",
        )


def _check_use(config: TrainConfig, crops: CropConfig, name: str):
    """One resolution that steps have, against the rest of the recipe."""
    data, gram, distill = config.data, config.gram, config.distill
    if data.augment == "device":
        for kind, size in _sizes(crops).items():
            _require(
                size <= data.canvas,
                f"{name.format(kind)} is {size}, larger than data.canvas {data.canvas}, from "
                f"which data.augment = 'device' cuts; set data.canvas to at least {size}",
            )
    _require(
        gram is None
        or gram.teacher == "ema"
        or crops.gram_distortions
        or crops.gram_size is not None,
        f"crops.gram_distortions is False, but without {name.format('gram')} the Gram teacher "
        f"sees the global crops, distortions and all; set it, to {crops.global_size} or more",
    )
    if distill is not None:
        scale, stride = distill.resolution_scale, distill.backbone.stride
        _require(scale > 0, f"distill.resolution_scale is {scale}, wanted above 0")
        side = round(crops.global_size / scale)
        _require(
            math.isclose(side * scale, crops.global_size) and side % stride == 0,
            f"{name.format('global')} is {crops.global_size}, for the teacher "
            f"{crops.global_size / scale:g} (distill.resolution_scale {scale:g}), not a multiple "
            f"of {_stride('distill.backbone', distill.backbone)}; take a multiple of "
            f"{stride * scale:g}",
        )


def _sizes(crops: CropConfig) -> dict[str, int]:
    sizes = {"global": crops.global_size, "local": crops.local_size}
    return sizes if crops.gram_size is None else {**sizes, "gram": crops.gram_size}


def _stride(section: str, vit: VitConfig) -> str:
    if vit.convnext:
        return f"the stride {vit.stride} of {section}.arch {vit.arch}"
    return f"{section}.patch_size {vit.patch_size}"


def _require(fine: bool, message: str):
    if not fine:
        raise ConfigError(message)
