"""The ConvNeXt backbone, which takes the place of a vision transformer as a distilled student.

4 stages of stride 4, 8, 16 and 32: downsample -> blocks (one ``lax.scan`` a stage). There are no
tokens inside: CLS is the mean of the last map, patch tokens are its positions. Source: DINOv3
paper, section 5; "A ConvNet for the 2020s" (arXiv:2201.03545).
"""

from collections.abc import Sequence

import jax
from flax import nnx

from dinov3_jax.config import ConvNextConfig
from dinov3_jax.distributed.fsdp import gather_layer
from dinov3_jax.distributed.sharding import shard_batch
from dinov3_jax.models import grid, layers, remat
from dinov3_jax.types import Features, Params

STRIDE = 32
_STAGES = 4


def _norm(dim: int, *, dtype: str, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Over channels: statistics in float32, result in the compute dtype."""
    return nnx.LayerNorm(dim, epsilon=1e-6, dtype=dtype, use_fast_variance=False, rngs=rngs)


class Downsample(nnx.Module):
    """[n, h, w, C'] -> [n, h/k, w/k, C]: conv k x k of stride k.

    The stem (k = 4) normalises the result, the later ones (k = 2) what comes in.
    """

    def __init__(self, inputs: int, dim: int, *, stem: bool, dtype: str, rngs: nnx.Rngs):
        self.stem = stem
        size = (4, 4) if stem else (2, 2)
        self.conv = nnx.Conv(
            inputs,
            dim,
            size,
            strides=size,
            padding="VALID",
            dtype=dtype,
            kernel_init=layers.matrix_init,
            rngs=rngs,
        )
        self.norm = _norm(dim if stem else inputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x)) if self.stem else self.conv(self.norm(x))


class ConvBlock(nnx.Module):
    """x + gamma · fc2(gelu(fc1(LayerNorm(depthwise 7 x 7(x))))) on [n, h, w, C], exact GELU."""

    def __init__(self, dim: int, *, dtype: str, rngs: nnx.Rngs):
        self.depthwise = nnx.Conv(
            dim,
            dim,
            (7, 7),
            padding="SAME",
            feature_group_count=dim,
            dtype=dtype,
            kernel_init=layers.matrix_init,
            rngs=rngs,
        )
        self.norm = _norm(dim, dtype=dtype, rngs=rngs)
        self.fc1 = layers.linear(dim, 4 * dim, bias=True, dtype=dtype, rngs=rngs)
        self.fc2 = layers.linear(4 * dim, dim, bias=True, dtype=dtype, rngs=rngs)
        self.ls = layers.LayerScale(dim, 1e-6, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = jax.nn.gelu(self.fc1(self.norm(self.depthwise(x))), approximate=False)
        return x + self.ls(self.fc2(hidden))


class Stage(nnx.Module):
    """Downsample, then blocks; stage ``index`` of ``config``."""

    def __init__(self, config: ConvNextConfig, index: int, *, rngs: nnx.Rngs):
        inputs, dim = (config.in_channels, *config.stage_dims)[index : index + 2]
        self.remat, self.dtype = config.remat, config.dtype
        self.downsample = Downsample(inputs, dim, stem=index == 0, dtype=config.dtype, rngs=rngs)
        # One block whose parameters carry a leading axis: born by vmap, run by scan.
        block = lambda key: ConvBlock(dim, dtype=config.dtype, rngs=nnx.Rngs(key))  # noqa: E731
        graph = nnx.graphdef(nnx.eval_shape(lambda: block(0)))
        keys = jax.random.split(rngs.params(), config.stage_depths[index])
        self.blocks = nnx.merge(graph, jax.vmap(lambda key: nnx.state(block(key)))(keys))

    def __call__(
        self, maps: tuple[jax.Array, ...], layout: Params | None = None
    ) -> tuple[jax.Array, ...]:
        """One map a crop size, each [n_i, h_i, w_i, C'] -> [n_i, h_i/k, w_i/k, C]."""
        with jax.named_scope("downsample"):
            maps = tuple(shard_batch(self.downsample(x)) for x in maps)
        graph, params = nnx.split(self.blocks)
        params = nnx.to_pure_dict(params)
        layout = None if layout is None else layout["blocks"]

        def body(maps, params):
            block = nnx.merge(graph, gather_layer(params, layout, dtype=self.dtype))
            # The constraint as in the transformer: gather the weights, not the activations.
            return tuple(shard_batch(block(shard_batch(x))) for x in maps), None

        with jax.named_scope("blocks"):
            return jax.lax.scan(remat.checkpoint(body, self.remat), maps, params)[0]


class ConvNext(nnx.Module):
    """ConvNeXt with the interface of ``VisionTransformer``; D is the width of the last stage.

    No storage tokens: the field is [n, 0, D]. ``Features.prenorm`` is the last map, flattened
    [n, N, D], without CLS.
    """

    def __init__(self, config: ConvNextConfig, *, rngs: nnx.Rngs):
        self.config = config
        for index in range(_STAGES):
            setattr(self, f"stage{index}", Stage(config, index, rngs=rngs))
        self.norm = _norm(config.embed_dim, dtype=config.dtype, rngs=rngs)

    def __call__(self, images: jax.Array) -> Features:
        """Inference: float images [n, H, W, c], normalised; H, W multiples of 32."""
        return self.forward((images,))[0]

    def forward(
        self,
        crops: Sequence[jax.Array],
        *,
        masks: Sequence[jax.Array | None] | None = None,
        keys: jax.Array | None = None,
        layout: Params | None = None,
    ) -> tuple[Features, ...]:
        """All crop sizes of one batch together; N_i is H_i W_i / 32², whatever ``patch_size``.

        ``masks`` and ``keys`` change nothing: a convolution has no mask token, and nothing here is
        random. A student that cannot be masked is trained by distillation.
        """
        return tuple(self._features(x, norm=True) for x in self._run(crops, layout)[-1])

    def intermediate_layers(
        self, images: jax.Array, layers: int | Sequence[int], *, norm: bool = True
    ) -> tuple[Features, ...]:
        """Features after some of the 4 stages: the last ``layers`` of them, or 0-based indices.

        Returned in depth order, each as wide as its stage. With ``config.patch_size`` p the maps
        are resized to H//p x W//p, before the norm; CLS stays the mean of the stage's own map.
        ``norm`` applies the final norm to the last stage; the others have none.
        """
        wanted = (
            range(_STAGES - layers, _STAGES) if isinstance(layers, int) else sorted(set(layers))
        )
        if not wanted or min(wanted) < 0 or max(wanted) >= _STAGES:
            raise ValueError(f"layers {layers} asked of a backbone of {_STAGES} stages (0-based)")
        maps, patch, size = self._run((images,)), self.config.patch_size, None
        if patch is not None:
            size = (images.shape[1] // patch, images.shape[2] // patch)
        return tuple(
            self._features(maps[i][0], norm=norm and i == _STAGES - 1, size=size) for i in wanted
        )

    def _run(self, crops, layout=None):
        """The maps after each stage, one tuple [n_i, h_i, w_i, C] a stage."""
        for images in crops:
            self._check(images)
        maps, after = tuple(images.astype(self.config.dtype) for images in crops), []
        for index in range(_STAGES):
            with jax.named_scope(f"stage{index}"):
                name = f"stage{index}"
                maps = getattr(self, name)(maps, None if layout is None else layout[name])
            after.append(maps)
        return after

    def _check(self, images):
        _, height, width, channels = images.shape
        if height % STRIDE or width % STRIDE:
            raise ValueError(
                f"image of {height} x {width} pixels is not a multiple of the stride {STRIDE}; "
                f"crop it to {height // STRIDE * STRIDE} x {width // STRIDE * STRIDE}"
            )
        if channels != self.config.in_channels:
            raise ValueError(
                f"images have {channels} channels, the backbone takes {self.config.in_channels}"
            )

    def _features(self, x, *, norm, size=None):
        n, *native, dim = x.shape
        prenorm, cls = x.reshape(n, -1, dim), x.mean(axis=(1, 2))
        if size is not None:
            resized = grid.resize(prenorm, tuple(native), size, method="bilinear", antialias=True)
            prenorm = resized.astype(x.dtype)
        patches = self.norm(prenorm) if norm else prenorm
        return Features(self.norm(cls) if norm else cls, patches[:, :0], patches, prenorm)
