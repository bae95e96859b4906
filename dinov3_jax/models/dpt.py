"""The DPT head: four layers of a frozen backbone -> logits of depth bins a pixel.

reassemble (one map a layer, at 4, 2, 1 and 1/2 times the patch grid) -> fuse from coarse to fine ->
convolutions at pixel resolution. All in float32; ``models.depth`` makes metres of the logits.
Sources: "Vision Transformers for Dense Prediction" (arXiv:2103.13413); DINOv3 paper, appendix D.11.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dinov3_jax.types import Features

_FACTORS = (4, 2, 1, 0.5)  # size of each map, of the patch grid


@dataclasses.dataclass(frozen=True)
class DptConfig:
    """Sizes and options of a depth head."""

    backbone_dim: int  # D of the backbone
    layers: tuple[int, int, int, int]  # its blocks that the head reads, 0-based, in depth order
    batch_norm: bool  # of the patch tokens, by stored statistics
    readout: bool  # CLS mixed into each patch token, else unused
    channels: tuple[int, int, int, int]  # of the maps at 4, 2, 1 and 1/2 times the patch grid
    fusion_dim: int
    unit_bias: bool  # of the convolutions inside a residual unit
    project: bool  # one more convolution after fusion
    hidden: int  # width before the bins
    bins: int
    binning: str  # "linear" or "mixlog" (``depth.bin_depths``, ``depth.bin_mean``)
    min_depth: float  # metres
    max_depth: float


# dinov3_vit7b16_dd: depth of a scene. Images are normalised as for the backbone.
SYNTHMIX = DptConfig(
    backbone_dim=4096,
    layers=(9, 19, 29, 39),
    batch_norm=True,
    readout=False,
    channels=(2048, 2048, 2048, 2048),
    fusion_dim=512,
    unit_bias=False,
    project=True,
    hidden=32,
    bins=256,
    binning="linear",
    min_depth=0.001,
    max_depth=100.0,
)
# dinov3_vitl16_chmv2: height of the canopy, seen from above, on the satellite ViT-L.
CHMV2 = DptConfig(
    backbone_dim=1024,
    layers=(5, 11, 17, 23),
    batch_norm=False,
    readout=True,
    channels=(128, 256, 512, 1024),
    fusion_dim=256,
    unit_bias=True,
    project=False,
    hidden=128,
    bins=256,
    binning="mixlog",
    min_depth=0.001,
    max_depth=96.0,
)


def resize(x: jax.Array, size: tuple[int, int], *, align_corners: bool) -> jax.Array:
    """Bilinear [n, h, w, c] -> [n, *size, c] without antialiasing.

    align_corners: the centres of the corner cells stay in place; else the corners of the image do,
    and the border is repeated. Either as in PyTorch, whose float32 positions are used.
    """
    for axis, new in zip((1, 2), size):
        old = x.shape[axis]
        if old == new:
            continue
        cells = np.arange(new, dtype=np.float32)
        if align_corners:
            position = cells * np.float32((old - 1) / max(new - 1, 1))
        else:
            position = (cells + np.float32(0.5)) * np.float32(old / new) - np.float32(0.5)
            position = np.maximum(position, 0)
        low = np.minimum(position.astype(int), old - 1)
        high = np.minimum(low + 1, old - 1)
        weight = np.expand_dims(position - low, (1, 2) if axis == 1 else 1).astype(np.float32)
        x = jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight
    return x


def _conv(
    inputs: int, outputs: int, size: int, *, bias: bool = True, stride: int = 1, rngs: nnx.Rngs
) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=bias,
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        rngs=rngs,
    )


class StoredNorm(nnx.Module):
    """Batch normalisation by stored statistics: (x - mean) / √(var + 1e-5) · scale + bias."""

    def __init__(self, dim: int):
        self.mean, self.bias = nnx.Param(jnp.zeros(dim)), nnx.Param(jnp.zeros(dim))
        self.var, self.scale = nnx.Param(jnp.ones(dim)), nnx.Param(jnp.ones(dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        factor = self.scale[...] * jax.lax.rsqrt(self.var[...] + 1e-5)
        return (x - self.mean[...]) * factor + self.bias[...]


class Deconv(nnx.Module):
    """Transposed convolution k x k of stride k: [n, h, w, c] -> [n, kh, kw, c]."""

    def __init__(self, dim: int, size: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal(in_axis=-2)
        self.kernel = nnx.Param(init(rngs.params(), (size, size, dim, dim)))
        self.bias = nnx.Param(jnp.zeros(dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        n, h, w, dim = x.shape
        size = self.kernel.shape[0]
        # Windows do not overlap: each cell writes its own k x k pixels.
        pixels = jnp.einsum("nhwc,ijcd->nhiwjd", x, self.kernel[...])
        return pixels.reshape(n, h * size, w * size, dim) + self.bias[...]


class Reassemble(nnx.Module):
    """Tokens of layer ``index`` of four -> a map [n, h', w', fusion_dim] of its own resolution."""

    def __init__(self, config: DptConfig, index: int, *, rngs: nnx.Rngs):
        dim, channels = config.backbone_dim, config.channels[index]
        self.norm = StoredNorm(dim) if config.batch_norm else None
        self.readout = nnx.Linear(2 * dim, dim, rngs=rngs) if config.readout else None
        self.project = _conv(dim, channels, 1, rngs=rngs)
        factor = _FACTORS[index]
        if factor > 1:
            self.resize = Deconv(channels, int(factor), rngs=rngs)
        else:
            self.resize = _conv(channels, channels, 3, stride=2, rngs=rngs) if factor < 1 else None
        self.out = _conv(channels, config.fusion_dim, 3, bias=False, rngs=rngs)

    def __call__(self, features: Features, grid: tuple[int, int]) -> jax.Array:
        x = features.patch_tokens.astype(jnp.float32)  # [n, N, D]
        if self.norm is not None:
            x = self.norm(x)
        if self.readout is not None:
            cls = jnp.broadcast_to(features.cls[:, None].astype(jnp.float32), x.shape)
            x = self.readout(jnp.concatenate([x, cls], axis=-1))
            x = jax.nn.gelu(x, approximate=False)
        x = self.project(x.reshape(len(x), *grid, -1))
        return self.out(x if self.resize is None else self.resize(x))


class ResidualUnit(nnx.Module):
    """x + conv2(relu(conv1(relu(x)))), both 3 x 3."""

    def __init__(self, dim: int, *, bias: bool, rngs: nnx.Rngs):
        self.conv1 = _conv(dim, dim, 3, bias=bias, rngs=rngs)
        self.conv2 = _conv(dim, dim, 3, bias=bias, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.conv2(jax.nn.relu(self.conv1(jax.nn.relu(x))))


class Fusion(nnx.Module):
    """Adds a finer map to what is fused so far and doubles the resolution."""

    def __init__(self, config: DptConfig, *, first: bool, rngs: nnx.Rngs):
        dim, bias = config.fusion_dim, config.unit_bias
        self.unit1 = None if first else ResidualUnit(dim, bias=bias, rngs=rngs)
        self.unit2 = ResidualUnit(dim, bias=bias, rngs=rngs)
        self.project = _conv(dim, dim, 1, rngs=rngs)

    def __call__(self, fused: jax.Array, finer: jax.Array | None = None) -> jax.Array:
        if self.unit1 is not None and finer is not None:
            # They differ where a grid of odd sides was halved and doubled.
            _, h, w, _ = fused.shape
            finer = resize(finer, (h, w), align_corners=False)
            fused = fused + self.unit1(finer)
        # The reference projects after resizing. The two commute, and this is a quarter of the work.
        x = self.project(self.unit2(fused))
        return resize(x, (2 * x.shape[1], 2 * x.shape[2]), align_corners=True)


class DptHead(nnx.Module):
    """Four layers' features -> logits [n, 32 ⌈h/2⌉, 32 ⌈w/2⌉, bins], 16 pixels a patch."""

    def __init__(self, config: DptConfig, *, rngs: nnx.Rngs):
        dim = config.fusion_dim
        for i in range(4):
            setattr(self, f"reassemble{i}", Reassemble(config, i, rngs=rngs))
            setattr(self, f"fusion{i}", Fusion(config, first=i == 0, rngs=rngs))
        self.project = _conv(dim, dim, 3, rngs=rngs) if config.project else None
        self.conv1 = _conv(dim, dim // 2, 3, rngs=rngs)
        self.conv2 = _conv(dim // 2, config.hidden, 3, rngs=rngs)
        self.conv3 = _conv(config.hidden, config.bins, 1, rngs=rngs)

    def __call__(self, layers: tuple[Features, ...], grid: tuple[int, int]) -> jax.Array:
        """``layers`` in depth order, on a patch grid of h x w."""
        maps = [getattr(self, f"reassemble{i}")(x, grid) for i, x in enumerate(layers)]
        fused = self.fusion0(maps[3])
        for i in (1, 2, 3):
            fused = getattr(self, f"fusion{i}")(fused, maps[3 - i])
        if self.project is not None:
            fused = jax.nn.relu(self.project(fused))
        x = self.conv1(fused)
        x = resize(x, (2 * x.shape[1], 2 * x.shape[2]), align_corners=True)
        return self.conv3(jax.nn.relu(self.conv2(x)))
