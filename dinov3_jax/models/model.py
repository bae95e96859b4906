"""A frozen backbone with its weights: what ``dinov3_jax.load`` returns."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from dinov3_jax.config import CompleteVitConfig, ConvNextConfig
from dinov3_jax.data.preprocess import Picture, preprocess
from dinov3_jax.models import build
from dinov3_jax.types import Features, Params

WEB = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, std of pixels in 0..1


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """``model(images)`` -> ``Features``; compiled once for each shape of images."""

    name: str  # "dinov3_vitb16", or the recipe's name of a run
    config: CompleteVitConfig | ConvNextConfig
    params: Params  # of the backbone, float32
    mean: tuple[float, ...] = WEB[0]  # of the pixels it was trained on, 0..1, one a channel
    std: tuple[float, ...] = WEB[1]

    def __call__(self, images: jax.Array) -> Features:
        """Float images [n, H, W, c], normalised; H and W are multiples of ``stride``."""
        return _forward(self.params, images, config=self.config)

    def intermediate_layers(
        self, images: jax.Array, layers: int | Sequence[int], *, norm: bool = True
    ) -> tuple[Features, ...]:
        """Features after some blocks (ConvNeXt: stages), in depth order: the last ``layers`` of
        them, or 0-based indices; ``norm`` applies the final norm to each."""
        layers = layers if isinstance(layers, int) else tuple(layers)
        return _layers(self.params, images, config=self.config, layers=layers, norm=norm)

    def preprocess(self, image: Picture, size: int | tuple[int, int] | None = 256) -> np.ndarray:
        """float32 [H, W, 3] for ``self``, to be stacked; see ``data.preprocess``."""
        if self.config.in_channels != 3:
            raise ValueError(f"{self.name} takes {self.config.in_channels} channels, not RGB")
        return preprocess(image, size, stride=self.stride, mean=self.mean, std=self.std)

    @property
    def stride(self) -> int:
        """Pixels a side of what one patch token stands for; image sides are multiples of it."""
        return self.config.stride


def rope_table(model: Model, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """sin, cos float32 [N, C] of the patches of one grid; the model is a ViT."""
    tables = nnx.merge(graph(model.config), model.params).sincos(grid, None)
    sin, cos = (np.asarray(table, np.float32).reshape(-1, table.shape[-1]) for table in tables)
    return sin, cos


def train_features(
    config: CompleteVitConfig | ConvNextConfig, params: Params, images: jax.Array, keys: jax.Array
) -> Features:
    """What ``Model`` computes, as in training: with the stochastic depth of ``config.drop_path``
    and its RoPE augmentation. Traced inside a step; keys [S], one for each B/S neighbouring images.
    """
    return nnx.merge(graph(config), params).forward((images,), keys=keys)[0]


def frozen(
    config: CompleteVitConfig | ConvNextConfig, *, dtype: str
) -> CompleteVitConfig | ConvNextConfig:
    """As a ``Model`` computes that is not trained: in ``dtype`` and not in float8, with the
    attention that suits the device it comes to, which need not be the one it was trained on."""
    if isinstance(config, ConvNextConfig):
        return dataclasses.replace(config, dtype=dtype)
    return dataclasses.replace(config, dtype=dtype, attention="auto", fp8=False)


def random_model(name: str, config: CompleteVitConfig | ConvNextConfig, *, seed: int = 0) -> Model:
    """A model as training would start it."""
    make = jax.jit(lambda: nnx.to_pure_dict(nnx.state(build.backbone(config, nnx.Rngs(seed)))))
    return Model(name, config, make())


@functools.cache
def abstract_params(config: CompleteVitConfig | ConvNextConfig) -> Params:
    """The tree of a backbone's parameters: shapes without memory."""
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: build.backbone(config, nnx.Rngs(0)))))


@functools.cache
def graph(config: CompleteVitConfig | ConvNextConfig) -> nnx.GraphDef:
    """``nnx.merge(graph(config), params)`` is the module."""
    return nnx.graphdef(nnx.eval_shape(lambda: build.backbone(config, nnx.Rngs(0))))


@functools.partial(jax.jit, static_argnames="config")
def _forward(params, images, *, config):
    return nnx.merge(graph(config), params)(images)


@functools.partial(jax.jit, static_argnames=("config", "layers", "norm"))
def _layers(params, images, *, config, layers, norm):
    return nnx.merge(graph(config), params).intermediate_layers(images, layers, norm=norm)
