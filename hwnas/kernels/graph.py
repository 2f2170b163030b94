"""An ONNX file as a graph with every shape known."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from hwnas.errors import ModelFileError

Shape = tuple[int, ...]

_ARITHMETIC = {
    *("Constant", "Gather", "Add", "Sub", "Mul", "Div", "Floor", "Cast", "Concat", "Slice", "Squeeze", "Unsqueeze"),
    *("Reshape", "ConstantOfShape", "Equal", "Where", "Range", "Expand", "Neg", "Mod"),
}
"""Operations that exporters compute shapes with."""

_SMALL = 64
"""Elements of a tensor that may be a shape."""


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every shape inferred; what only computes shapes is computed and becomes a constant."""
    while True:
        model = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        if not _fold(model):
            return model


def _fold(model: onnx.ModelProto) -> bool:
    """Replace nodes that compute integers from known ones by their values; return whether there was any."""
    graph = model.graph
    sides = {
        value.name: [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    known = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if not tensor.external_data and math.prod(tensor.dims) <= _SMALL
    }
    folded = []
    for node in graph.node:
        if node.op_type == "Shape" and -1 not in sides.get(node.input[0], [-1]):
            whole = slice(attribute(node, "start", 0), attribute(node, "end", None))
            values = [np.array(sides[node.input[0]][whole], dtype=np.int64)]
        elif (
            node.op_type != "Shape"
            and node.op_type in _ARITHMETIC
            and all(name in known for name in node.input if name)
        ):
            values = _evaluate(model, node, {name: known[name] for name in node.input if name})
        else:
            continue
        if all(value.size <= _SMALL for value in values):
            known |= dict(zip(node.output, values, strict=True))
            folded.append(node)
    for node in folded:
        graph.node.remove(node)
        graph.initializer.extend(numpy_helper.from_array(np.asarray(known[name]), name) for name in node.output)
    return bool(folded)


def _evaluate(model: onnx.ModelProto, node: Any, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Return the outputs of one node of a model, computed as the model's own opset defines the operation."""
    ends = [[onnx.ValueInfoProto(name=name) for name in names] for names in (inputs, node.output)]
    alone = helper.make_model(helper.make_graph([node], "node", *ends), opset_imports=model.opset_import)
    return [np.asarray(value) for value in ReferenceEvaluator(alone).run(None, inputs)]


class OnnxGraph:
    """Nodes in order, shapes, constants and readers of an ONNX file.

    Args:
        path: The file; weights in other files are not read.

    Raises:
        ModelFileError: It cannot be read, or its shapes are not fixed.
    """

    def __init__(self, path: Path) -> None:
        try:
            model = with_shapes(onnx.load(str(path), load_external_data=False))
        except Exception as error:  # the parser and the inference raise their own types and plain ones
            raise ModelFileError(
                f"{path}: its shapes cannot be inferred ({str(error).splitlines()[0]}). Export it again."
            ) from error
        graph = model.graph
        self.path = path
        self.nodes = list(graph.node)
        self.shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self.constants = set(self.shapes)
        self.integers: set[str] = set()
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            if value.name not in self.constants and kind.HasField("shape"):
                self.shapes[value.name] = tuple(
                    dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim
                )
            if kind.elem_type in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL):
                self.integers.add(value.name)
        for value in graph.input:
            if value.name not in self.constants and -1 in self.shape(value.name):
                raise ModelFileError(
                    f"{path}: input {value.name!r} has the shape {_text(self.shape(value.name))}: a latency belongs to fixed "
                    "shapes. Export the model with fixed ones (for torch: without dynamic axes)."
                )
        for node in self.nodes:
            if node.op_type == "Constant" or (
                node.input and all(name in self.constants for name in node.input if name)
            ):
                self.constants |= set(node.output)
        self.results = {value.name for value in graph.output}
        self._readers = Counter(name for node in self.nodes for name in node.input)
        self.nodes = self._with_swishes()
        self._readers = Counter(name for node in self.nodes for name in node.input)

    def _with_swishes(self) -> list[Any]:
        """Return the nodes with ``x * sigmoid(x)`` as one operation, ``Swish``, as runtimes run it."""
        gates = {node.output[0]: node for node in self.nodes if node.op_type == "Sigmoid"}
        nodes, joined = [], set()
        for node in self.nodes:
            gate = next((name for name in node.input if name in gates), None) if node.op_type == "Mul" else None
            if gate is not None and self.read_once(gate) and gates[gate].input[0] in node.input:
                joined.add(gate)
                node = helper.make_node("Swish", list(gates[gate].input), list(node.output), name=node.name)
            nodes.append(node)
        return [node for node in nodes if not joined & set(node.output)]

    def shape(self, name: str) -> Shape:
        """Return the shape of a tensor, -1 for a side that is not fixed."""
        if name not in self.shapes:
            raise ModelFileError(f"{self.path}: the shape of tensor {name!r} is not known. Export the model again.")
        return self.shapes[name]

    def known(self, name: str) -> Shape:
        """Return the shape of a tensor whose sides are all fixed."""
        shape = self.shape(name)
        if any(side < 0 for side in shape):
            raise ModelFileError(
                f"{self.path}: tensor {name!r} has the shape {_text(shape)}: a latency belongs to fixed shapes."
            )
        return shape

    def elements(self, name: str) -> float:
        """Return the elements of a tensor."""
        return float(math.prod(self.known(name)))

    def activations(self, node: Any) -> list[str]:
        """Return the inputs of a node that are not constant."""
        return [name for name in node.input if name and name not in self.constants]

    def read_once(self, name: str) -> bool:
        """Return whether one node reads a tensor and nobody else gets it."""
        return self._readers[name] == 1 and name not in self.results


def _text(shape: Shape) -> str:
    return "[" + ", ".join("?" if side < 0 else str(side) for side in shape) + "]"


def attribute(node: Any, name: str, default: Any) -> Any:
    """Return the value of a node's attribute."""
    for found in node.attribute:
        if found.name == name:
            return helper.get_attribute_value(found)
    return default
