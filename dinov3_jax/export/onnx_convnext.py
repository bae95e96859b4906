"""The ConvNeXt of ``models.convnext`` as an ONNX graph, for one image size."""

import jax
import numpy as np

from dinov3_jax.config import ConvNextConfig
from dinov3_jax.export.onnx_graph import Graph, conv, gelu_mlp, layernorm
from dinov3_jax.models.model import Model

_EPSILON = 1e-6


def features(
    graph: Graph, images: str, model: Model, size: tuple[int, int]
) -> dict[str, tuple[str, list[int]]]:
    """images [B, H, W, c] float32 -> {field of ``Features``: (value, its shape without B)}."""
    config, params, x = model.config, model.params, images
    assert isinstance(config, ConvNextConfig)
    for i, depth in enumerate(config.stage_depths):
        x = _downsample(graph, x, params[f"stage{i}"]["downsample"], f"stage{i}.downsample", i == 0)
        for j in range(depth):
            block = jax.tree.map(lambda leaf: leaf[j], params[f"stage{i}"]["blocks"])  # noqa: B023
            x = _block(graph, x, block, f"stage{i}.blocks.{j}")
    axes = graph.constant("image_axes", np.asarray([1, 2], np.int64))
    mean = graph.node("ReduceMean", x, axes, attributes={"keepdims": 0})
    dim, patches = config.embed_dim, size[0] * size[1] // model.stride**2
    tokens = graph.reshape(x, [0, -1, dim])
    cls, tokens = (_norm(graph, value, params["norm"], "norm") for value in (mean, tokens))
    return {"cls": (cls, [dim]), "patch_tokens": (tokens, [patches, dim])}


def _downsample(graph, x, params, name, stem):
    if stem:
        x = conv(graph, x, params["conv"], f"{name}.conv", stride=4)
        return _norm(graph, x, params["norm"], f"{name}.norm")
    x = _norm(graph, x, params["norm"], f"{name}.norm")
    return conv(graph, x, params["conv"], f"{name}.conv", stride=2)


def _block(graph, x, params, name):
    depthwise = params["depthwise"]
    channels = depthwise["kernel"].shape[-1]
    hidden = conv(graph, x, depthwise, f"{name}.depthwise", pad=3, groups=channels)
    hidden = _norm(graph, hidden, params["norm"], f"{name}.norm")
    return graph.node("Add", x, gelu_mlp(graph, hidden, params, name, params["ls"]["gamma"]))


def _norm(graph, x, layer, name):
    return layernorm(graph, x, layer, name, epsilon=_EPSILON)
