"""An ONNX model straight from a layer graph: milliseconds instead of the second a torch export takes.

The output tensor of layer ``L`` is named ``L`` (``input`` and ``output`` at the ends), and so is its node, so that what a
runtime fuses can be traced back to blocks. Batch normalisation is already folded into the layer graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hwnas.backends.naming import INPUT, OUTPUT, tensor_names
from hwnas.backends.synthetic import WeightPool, Weights, float_weights, norm_statistics
from hwnas.spaces.graph import Layer, LayerGraph

OPSET = 17
"""Knows HardSwish (14) and is fused well by ONNX Runtime and OpenVINO."""
IR_VERSION = 8
_OUTLINED = 64
"""Elements above which an outline keeps only the shape of a constant."""

_NODES: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "hswish": ("HardSwish", {}),
    "hsigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "sigmoid": ("Sigmoid", {}),
    "batch_norm": ("BatchNormalization", {}),
    "concat": ("Concat", {"axis": 1}),
    "global_pool": ("GlobalAveragePool", {}),
    "flatten": ("Flatten", {"axis": 1}),
    "add": ("Add", {}),
    "mul": ("Mul", {}),
}


def raw_tensor(name: str, array: NDArray[Any]) -> TensorProto:
    """Return an initializer; ``onnx.numpy_helper`` copies twice, this copies once."""
    tensor = TensorProto()
    tensor.name = name
    tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor.dims.extend(array.shape)
    tensor.raw_data = array.tobytes()
    return tensor


@dataclass
class GraphParts:
    """Nodes and initializers of a graph under construction."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add an initializer; return its name."""
        self.initializers.append(raw_tensor(name, array))
        return name

    def node(self, op: str, inputs: list[str], output: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node of one output; return the output's name."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=name or output, **attributes))
        return output


def convolution_attributes(layer: Layer) -> dict[str, Any]:
    """Return the attributes of the node of a convolution or pool."""
    attributes: dict[str, Any] = {
        "kernel_shape": [layer.kernel] * 2,
        "strides": [layer.stride] * 2,
        "pads": [layer.padding] * 4,
    }
    if layer.op == "conv":
        attributes["group"] = layer.groups
    if layer.ceil:
        attributes["ceil_mode"] = 1
    return attributes


def add_layer_node(parts: GraphParts, layer: Layer, inputs: list[str], parameters: list[str], output: str) -> None:
    """Add the node of a layer that reads the tensors ``inputs`` and the weight and bias tensors ``parameters``."""
    if layer.op == "conv":
        parts.node("Conv", [*inputs, *parameters], output, layer.name, **convolution_attributes(layer))
    elif layer.op == "linear":
        parts.node("Gemm", [*inputs, *parameters], output, layer.name, transB=1)
    elif layer.op == "max_pool":
        parts.node("MaxPool", inputs, output, layer.name, **convolution_attributes(layer))
    elif layer.op == "avg_pool":
        attributes = convolution_attributes(layer)
        parts.node("AveragePool", inputs, output, layer.name, count_include_pad=1, **attributes)
    elif layer.op == "relu6":
        ends = (("min", np.array(0, dtype=np.float32)), ("max", np.array(6, dtype=np.float32)))
        bounds = [parts.constant(f"{layer.name}.{name}", value) for name, value in ends]
        parts.node("Clip", [*inputs, *bounds], output, layer.name)
    elif layer.op == "swish":
        gate = parts.node("Sigmoid", inputs, f"{layer.name}.gate")
        parts.node("Mul", [*inputs, gate], output, layer.name)
    elif layer.op == "slice":
        _add_slice(parts, layer, inputs, output)
    elif layer.op == "shuffle":
        _add_shuffle(parts, layer, inputs, output)
    else:
        op, attributes = _NODES[layer.op]
        parts.node(op, [*inputs, *parameters], output, layer.name, **attributes)


def _integers(parts: GraphParts, name: str, values: Sequence[int]) -> str:
    return parts.constant(name, np.array(values, dtype=np.int64))


def _add_slice(parts: GraphParts, layer: Layer, inputs: list[str], output: str) -> None:
    ends = ("starts", [layer.start]), ("ends", [layer.start + layer.shape[0]]), ("axes", [1])
    where = [_integers(parts, f"{layer.name}.{name}", values) for name, values in ends]
    parts.node("Slice", [*inputs, *where], output, layer.name)


def _add_shuffle(parts: GraphParts, layer: Layer, inputs: list[str], output: str) -> None:
    channels, *sides = layer.shape
    split = _integers(parts, f"{layer.name}.split", [0, layer.groups, channels // layer.groups, *sides])
    joined = _integers(parts, f"{layer.name}.joined", [0, *layer.shape])
    parts.node("Reshape", [*inputs, split], f"{layer.name}.groups")
    parts.node("Transpose", [f"{layer.name}.groups"], f"{layer.name}.turned", perm=[0, 2, 1, 3, 4])
    parts.node("Reshape", [f"{layer.name}.turned", joined], output, layer.name)


class _Outline(GraphParts):
    """Parts whose large constants have a shape and no content."""

    def constant(self, name: str, array: NDArray[Any]) -> str:
        if array.size <= _OUTLINED:
            return super().constant(name, array)
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        self.initializers.append(tensor)
        return name


def finish_model(parts: GraphParts, graph: LayerGraph, batch: int) -> onnx.ModelProto:
    """Return the model of the collected parts with fixed input and output shapes, batch first."""
    first, last = graph.layers[0], graph.layers[-1]
    model = helper.make_model(
        helper.make_graph(
            parts.nodes,
            "hwnas",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, *first.shape])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, *last.shape])],
            parts.initializers,
        ),
        producer_name="hwnas",
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    model.ir_version = IR_VERSION
    return model


def build_fp32(graph: LayerGraph, *, batch: int = 1, seed: int = 0, weights: Weights | None = None) -> onnx.ModelProto:
    """Return the float model of a layer graph.

    Args:
        graph: Layers; the first is the input (float32 ``[batch, channels, height, width]``), the last the output.
        batch: Images per inference, fixed in the file.
        seed: Seed of the random weights.
        weights: Weights by layer name instead of random ones.

    Raises:
        ModelFileError: Weights are missing or have another shape.
    """
    return _build(GraphParts(), graph, batch, seed, weights)


def outline(graph: LayerGraph, *, batch: int = 1) -> onnx.ModelProto:
    """Return the float model without the content of its weights: for what only looks at operations and shapes."""
    zeros = {
        layer.name: (
            np.zeros(layer.weight_shape, dtype=np.float32),
            np.zeros(layer.shape[0], dtype=np.float32) if layer.bias else None,
        )
        for layer in graph.layers
        if layer.weight_shape
    }
    return _build(_Outline(), graph, batch, 0, zeros)


def _build(parts: GraphParts, graph: LayerGraph, batch: int, seed: int, weights: Weights | None) -> onnx.ModelProto:
    names = tensor_names(graph)
    pool = WeightPool(seed)
    for layer in graph.layers[1:]:
        parameters = []
        if layer.op == "batch_norm":
            named = zip(("scale", "shift", "mean", "variance"), norm_statistics(layer, pool), strict=True)
            parameters = [parts.constant(f"{layer.name}.{name}", array) for name, array in named]
        if layer.weight_shape:
            weight, bias = float_weights(layer, pool, weights)
            parameters.append(parts.constant(f"{layer.name}.weight", weight))
            if bias is not None:
                parameters.append(parts.constant(f"{layer.name}.bias", bias))
        add_layer_node(parts, layer, [names[name] for name in layer.inputs], parameters, names[layer.name])
    return finish_model(parts, graph, batch)
