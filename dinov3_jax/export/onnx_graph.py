"""The pieces of an ONNX graph: nodes, constants, and the layers that both backbones have."""

from typing import Any

import numpy as np

from dinov3_jax.types import Params


class Graph:
    """Nodes and constants in the making; a value is the name under which it is known."""

    def __init__(self):
        self.nodes: list[tuple[str, tuple[str, ...], list[str], dict[str, Any]]] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: np.ndarray | np.floating) -> str:
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def node(
        self,
        operator: str,
        *inputs: str,
        attributes: dict[str, Any] | None = None,
        output: str | None = None,
    ) -> str:
        """The one output of an operator, under a name of its own unless ``output`` gives it."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append((operator, inputs, [output], attributes or {}))
        return output

    def split(self, x: str, sizes: list[int], *, axis: int) -> list[str]:
        outputs = [f"split_{len(self.nodes)}_{i}" for i in range(len(sizes))]
        name = "sizes_" + "_".join(map(str, sizes))
        lengths = self.constant(name, np.asarray(sizes, np.int64))
        self.nodes.append(("Split", (x, lengths), outputs, {"axis": axis}))
        return outputs

    def reshape(self, x: str, shape: list[int]) -> str:
        """``shape`` as in ONNX: 0 keeps the length of that axis, -1 is the rest."""
        name = "shape_" + "_".join(map(str, shape))
        return self.node("Reshape", x, self.constant(name, np.asarray(shape, np.int64)))

    def transpose(self, x: str, axes: list[int]) -> str:
        return self.node("Transpose", x, attributes={"perm": axes})

    def needed(self, results: list[str]) -> list[Any]:
        """ONNX nodes, without those that no result needs, whose constants are dropped too."""
        import onnx

        wanted, nodes = set(results), []
        for operator, inputs, outputs, attributes in reversed(self.nodes):
            if wanted.intersection(outputs):
                wanted.update(inputs)
                made = onnx.helper.make_node(operator, list(inputs), outputs, outputs[0])
                made.attribute.extend(
                    onnx.helper.make_attribute(key, value) for key, value in attributes.items()
                )
                nodes.append(made)
        self.constants = {name: x for name, x in self.constants.items() if name in wanted}
        return nodes[::-1]

    def initializers(self) -> list[Any]:
        import onnx

        return [onnx.numpy_helper.from_array(x, name) for name, x in self.constants.items()]


def dense(graph: Graph, x: str, layer: Params, name: str, gamma: np.ndarray | None = None) -> str:
    """(x · kernel + bias) ∘ gamma over the last axis; gamma is multiplied into the weights."""
    scale = np.float32(1.0) if gamma is None else gamma
    out = graph.node("MatMul", x, graph.constant(f"{name}.kernel", layer["kernel"] * scale))
    if layer.get("bias") is None:
        return out
    return graph.node("Add", out, graph.constant(f"{name}.bias", layer["bias"] * scale))


def layernorm(graph: Graph, x: str, layer: Params, name: str, *, epsilon: float) -> str:
    scale = graph.constant(f"{name}.scale", layer["scale"])
    bias = graph.constant(f"{name}.bias", layer["bias"])
    attributes = {"axis": -1, "epsilon": epsilon}
    return graph.node("LayerNormalization", x, scale, bias, attributes=attributes)


def rmsnorm(graph: Graph, x: str, layer: Params, name: str, *, epsilon: float) -> str:
    """x / √(mean x² + ε) · scale, of operators that opset 20 has."""
    last = graph.constant("last_axis", np.asarray([-1], np.int64))
    mean = graph.node("ReduceMean", graph.node("Mul", x, x), last)
    shifted = graph.node("Add", mean, graph.constant("epsilon", np.float32(epsilon)))
    out = graph.node("Div", x, graph.node("Sqrt", shifted))
    return graph.node("Mul", out, graph.constant(f"{name}.scale", layer["scale"]))


def gelu_mlp(
    graph: Graph, x: str, layers: Params, name: str, gamma: np.ndarray | None = None
) -> str:
    """fc2(gelu(fc1(x))) ∘ gamma, exact GELU."""
    hidden = graph.node("Gelu", dense(graph, x, layers["fc1"], f"{name}.fc1"))
    return dense(graph, hidden, layers["fc2"], f"{name}.fc2", gamma)


def conv(
    graph: Graph,
    x: str,
    layer: Params,
    name: str,
    *,
    stride: int = 1,
    pad: int = 0,
    groups: int = 1,
) -> str:
    """[n, h, w, C'] -> [n, h/stride, w/stride, C] by a kernel [k, k, C'/groups, C]."""
    kernel = layer["kernel"]
    out = graph.node(
        "Conv",
        graph.transpose(x, [0, 3, 1, 2]),
        graph.constant(f"{name}.kernel", kernel.transpose(3, 2, 0, 1)),
        graph.constant(f"{name}.bias", layer["bias"]),
        attributes={
            "strides": [stride, stride],
            "pads": [pad] * 4,
            "group": groups,
        },
    )
    return graph.transpose(out, [0, 2, 3, 1])
