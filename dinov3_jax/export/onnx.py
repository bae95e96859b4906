"""ONNX: one graph of plain operators without loops, weights inside, in float32.

The graph is written here and not translated from JAX: a translator makes a loop of the scan over
blocks and computes positions at run time, and jax2onnx does not install beside our Orbax.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable

import numpy as np

from dinov3_jax.config import CompleteVitConfig
from dinov3_jax.export import onnx_convnext, onnx_vit
from dinov3_jax.export.onnx_graph import Graph
from dinov3_jax.export.signature import Signature, metadata, need, output_names
from dinov3_jax.models.model import Model

_OPSET, _IR = 20, 10  # 20: the first with Gelu; 10: what runtimes of its time read
# A protobuf file ends at 2 GiB; heavier weights stand in a second file.
_MAX_BYTES = 1_900_000_000


def in_float32(model: Model) -> Model:
    """The same weights computed in float32: few runtimes have bfloat16 or float8 operators."""
    config = dataclasses.replace(model.config, dtype="float32")
    if isinstance(config, CompleteVitConfig):
        config = dataclasses.replace(config, rope_dtype="float32", fp8=False)
    return dataclasses.replace(model, config=config)


def write(model: Model, path: pathlib.Path, signature: Signature) -> None:
    """A file for ``onnxruntime``, opset 20; ``model`` is of ``in_float32``.

    Weights of more than 1.9 GB go into a second file beside it, ``path`` without ``.failed`` plus
    ``.data``. ``metadata`` stands under its names, as JSON.
    """
    need("onnx", "onnx", "onnxruntime")
    import onnx

    size = signature.size
    assert size is not None  # ``signature.check``
    graph = Graph()
    images = "images"
    if signature.pixels:
        images = _normalize(graph, images, model)
    body = onnx_vit if isinstance(model.config, CompleteVitConfig) else onnx_convnext
    outputs = body.features(graph, images, model, size)

    batch = "batch" if signature.batch is None else signature.batch
    float32 = onnx.TensorProto.FLOAT
    kind = onnx.TensorProto.UINT8 if signature.pixels else float32
    shape = [batch, *size, model.config.in_channels]
    results = []
    for name in output_names(model, signature):
        value, inner = outputs[name]
        graph.node("Identity", value, output=name)
        results.append(onnx.helper.make_tensor_value_info(name, float32, [batch, *inner]))
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.needed([result.name for result in results]),
            model.name,
            [onnx.helper.make_tensor_value_info("images", kind, shape)],
            results,
            graph.initializers(),
        ),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="dinov3_jax",
    )
    facts = metadata(model, signature)
    for name, value in facts.items():
        proto.metadata_props.add(key=name, value=json.dumps(value))
    weights = sum(value.nbytes for value in graph.constants.values())
    beside = path.with_name(path.name.removesuffix(".failed") + ".data")
    beside.unlink(missing_ok=True)  # ONNX would append to what an earlier export has left
    onnx.save_model(
        proto, str(path), save_as_external_data=weights > _MAX_BYTES, location=beside.name
    )
    onnx.checker.check_model(str(path))


def load(path: pathlib.Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images})))


def _normalize(graph, images, model):
    mean, std = (np.asarray(x, np.float32) for x in (model.mean, model.std))
    levels = graph.node("Cast", images, attributes={"to": 1})  # 1: float32
    scaled = graph.node("Mul", levels, graph.constant("pixel_scale", np.float32(1 / 255) / std))
    return graph.node("Sub", scaled, graph.constant("pixel_offset", mean / std))
