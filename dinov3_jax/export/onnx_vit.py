"""The vision transformer of ``models.vit`` as an ONNX graph, for one image size."""

import jax
import numpy as np

from dinov3_jax.config import CompleteVitConfig
from dinov3_jax.export.onnx_graph import Graph, conv, dense, gelu_mlp, layernorm, rmsnorm
from dinov3_jax.models.model import Model, rope_table
from dinov3_jax.types import Params


def features(
    graph: Graph, images: str, model: Model, size: tuple[int, int]
) -> dict[str, tuple[str, list[int]]]:
    """images [B, H, W, c] float32 -> {field of ``Features``: (value, its shape without B)}."""
    config, params, dim = model.config, model.params, model.config.embed_dim
    assert isinstance(config, CompleteVitConfig)
    grid = (size[0] // config.patch_size, size[1] // config.patch_size)
    patches, storage = grid[0] * grid[1], config.storage_tokens

    x = conv(graph, images, params["patch_embed"], "patch_embed", stride=config.patch_size)
    x = graph.reshape(x, [0, -1, dim])
    x = graph.node("Concat", _prefix(graph, images, params), x, attributes={"axis": 1})
    tables = _rope_tables(graph, model, grid)
    for i in range(config.depth):
        block = jax.tree.map(lambda leaf: leaf[i], params["blocks"])  # noqa: B023
        x = _block(graph, x, block, f"blocks.{i}", tables, config)

    head, rest = graph.split(x, [1 + storage, patches], axis=1)
    separate = config.untie_cls_and_patch_norms
    head_norm = "cls_norm" if separate else "norm"
    head = _norm(graph, head, params[head_norm], head_norm, config)
    out = {"patch_tokens": (_norm(graph, rest, params["norm"], "norm", config), [patches, dim])}
    if storage:
        head, others = graph.split(head, [1, storage], axis=1)
        out["storage_tokens"] = (others, [storage, dim])
    return out | {"cls": (graph.reshape(head, [-1, dim]), [dim])}


def _prefix(graph, images, params):
    """CLS and storage tokens once an image: [B, 1 + R, D]."""
    tokens = params["cls_token"][None]
    if "storage_tokens" in params:
        tokens = np.concatenate([tokens, params["storage_tokens"]])
    batch = graph.node("Shape", images, attributes={"start": 0, "end": 1})
    rest = graph.constant("prefix_shape", np.asarray(tokens.shape, np.int64))
    shape = graph.node("Concat", batch, rest, attributes={"axis": 0})
    return graph.node("Expand", graph.constant("prefix_tokens", tokens[None]), shape)


def _rope_tables(graph, model, grid):
    """sin, cos [T, C]: prefix tokens are not turned, and sin has the signs of [-x₂, x₁]."""
    sin, cos = rope_table(model, grid)
    half, prefix = sin.shape[1] // 2, ((1 + model.config.storage_tokens, 0), (0, 0))
    sin = np.concatenate([-sin[:, :half], sin[:, half:]], axis=1)
    return (
        graph.constant("rope.sin", np.pad(sin, prefix)),
        graph.constant("rope.cos", np.pad(cos, prefix, constant_values=1.0)),
    )


def _block(graph, x, params: Params, name, tables, config):
    gammas = [params[ls]["gamma"] if ls in params else None for ls in ("ls1", "ls2")]
    normed = _norm(graph, x, params["norm1"], f"{name}.norm1", config)
    branch = _attention(graph, normed, params["attn"], f"{name}.attn", tables, config, gammas[0])
    x = graph.node("Add", x, branch)
    normed = _norm(graph, x, params["norm2"], f"{name}.norm2", config)
    feed_forward = {"mlp": gelu_mlp, "swiglu": _swiglu}[config.ffn]
    branch = feed_forward(graph, normed, params["ffn"], f"{name}.ffn", gammas[1])
    return graph.node("Add", x, branch)


def _attention(graph, x, params, name, tables, config, gamma):
    dim, heads = config.embed_dim, config.num_heads
    width = dim // heads
    qkv = params["qkv"]
    if config.qkv_bias and config.mask_k_bias:
        bias = np.array(qkv["bias"])
        bias[dim : 2 * dim] = 0.0
        qkv = qkv | {"bias": bias}
    thirds = graph.split(dense(graph, x, qkv, f"{name}.qkv"), [dim] * 3, axis=-1)
    thirds = [graph.reshape(third, [0, 0, heads, width]) for third in thirds]
    q, k, v = (graph.transpose(third, [0, 2, 1, 3]) for third in thirds)  # [B, A, T, C]
    q, k = (_turn(graph, turned, tables, width) for turned in (q, k))
    scale = graph.constant("attention_scale", np.float32(width**-0.5))
    scores = graph.node("MatMul", graph.node("Mul", q, scale), graph.transpose(k, [0, 1, 3, 2]))
    out = graph.node("MatMul", graph.node("Softmax", scores, attributes={"axis": -1}), v)
    out = graph.reshape(graph.transpose(out, [0, 2, 1, 3]), [0, 0, dim])
    return dense(graph, out, params["proj"], f"{name}.proj", gamma)


def _turn(graph, x, tables, width):
    sin, cos = tables
    first, second = graph.split(x, [width // 2] * 2, axis=-1)
    swapped = graph.node("Concat", second, first, attributes={"axis": -1})
    return graph.node("Add", graph.node("Mul", x, cos), graph.node("Mul", swapped, sin))


def _swiglu(graph, x, layers, name, gamma=None):
    gate, value = (dense(graph, x, layers[part], f"{name}.{part}") for part in ("gate", "value"))
    silu = graph.node("Mul", gate, graph.node("Sigmoid", gate))
    return dense(graph, graph.node("Mul", silu, value), layers["out"], f"{name}.out", gamma)


def _norm(graph, x, layer, name, config):
    norm = {"layernorm": layernorm, "rmsnorm": rmsnorm}[config.norm]
    return norm(graph, x, layer, name, epsilon=config.norm_eps)
