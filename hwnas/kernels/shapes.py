"""An ONNX model made plain: functions written out, branches chosen, every shape inferred, integers computed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, helper, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from hwnas.errors import ModelFileError

_ARITHMETIC = {
    *("Constant", "Gather", "Add", "Sub", "Mul", "Div", "Floor", "Cast", "Concat", "Slice", "Squeeze", "Unsqueeze"),
    *("Reshape", "ConstantOfShape", "Equal", "Where", "Range", "Expand", "Neg", "Mod", "Greater", "Less", "Not"),
    *("And", "Or", "Identity", "Transpose", "Ceil", "Clip", "Max", "Min"),
}
"""Operations that exporters compute shapes and conditions with."""

SMALL = 64
"""Elements of a tensor that may be a shape."""

_KEPT = 4096
"""Elements of a tensor whose values are kept; those of larger ones only make every step slow."""

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
_UNREADABLE = ("If", "Loop", "Scan", "SequenceMap", "Attention", "FlexAttention", "LinearAttention")
"""Operations whose work the file does not tell, or which nothing here counts."""


def attribute(node: Any, name: str, default: Any) -> Any:
    """Return the value of a node's attribute."""
    for found in node.attribute:
        if found.name == name:
            return helper.get_attribute_value(found)
    return default


def load_plain(path: Path) -> onnx.ModelProto:
    """Return the model of a file with its functions written out, without the values of large tensors.

    Raises:
        ModelFileError: It holds operations whose work cannot be told.
    """
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        if external_data_helper.uses_external_data(tensor) and math.prod(tensor.dims) <= SMALL:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        elif math.prod(tensor.dims) > _KEPT:
            _forget(tensor)
    if model.functions:
        model = inliner.inline_local_functions(model)
    for node in model.graph.node:
        if node.domain not in _DOMAINS:
            raise ModelFileError(
                f"{path}: node {_called(node)} is an operation {node.op_type!r} of the domain {node.domain!r}, which is no "
                "part of ONNX: its shapes and its work are not known. Export the model with standard operations."
            )
    return model


def _forget(tensor: onnx.TensorProto) -> None:
    """Drop the values of a tensor, as if they were in another file."""
    for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="forgotten")


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every shape inferred; what only computes shapes is computed and becomes a constant."""
    while True:
        model = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        if not _fold(model):
            return model


def refuse_unreadable(model: onnx.ModelProto, path: Path) -> None:
    """Raise a ``ModelFileError`` if a node is left whose work depends on values, or is not counted here."""
    for node in model.graph.node:
        if node.op_type in _UNREADABLE:
            why = "depends on values of the input" if node.op_type in ("If", "Loop", "Scan") else "is not counted yet"
            raise ModelFileError(f"{path}: the work of node {_called(node)}, an operation {node.op_type!r}, {why}.")


def _called(node: Any) -> str:
    return repr(node.name or (node.output[0] if node.output else ""))


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
        if not tensor.external_data and math.prod(tensor.dims) <= SMALL
    }
    folded, chosen = [], []
    for node in graph.node:
        if node.op_type == "If" and node.input[0] in known:
            chosen.append((node, bool(known[node.input[0]].reshape(-1)[0])))
            continue
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
        if all(value.size <= SMALL for value in values):
            known |= dict(zip(node.output, values, strict=True))
            folded.append(node)
    for node in folded:
        graph.node.remove(node)
        graph.initializer.extend(numpy_helper.from_array(np.asarray(known[name]), name) for name in node.output)
    for node, truth in chosen:
        _take_branch(graph, node, truth)
    return bool(folded or chosen)


def _take_branch(graph: onnx.GraphProto, node: Any, truth: bool) -> None:
    """Put the nodes of one branch of an ``If`` in its place."""
    branch = attribute(node, "then_branch" if truth else "else_branch", None)
    index = list(graph.node).index(node)
    inside = {name for part in branch.node for name in part.output} | {tensor.name for tensor in branch.initializer}
    renamed = {name: f"{node.output[0]}/{name}" for name in inside}
    for tensor in branch.initializer:
        tensor.name = renamed[tensor.name]
    for part in branch.node:
        part.name = f"{node.name or node.output[0]}/{part.name or part.output[0]}"
        for names in (part.input, part.output):
            names[:] = [renamed.get(name, name) for name in names]
    ends = [
        helper.make_node("Identity", [renamed.get(value.name, value.name)], [name])
        for value, name in zip(branch.output, node.output, strict=True)
    ]
    nodes = list(graph.node)
    nodes[index : index + 1] = [*branch.node, *ends]
    graph.initializer.extend(branch.initializer)
    del graph.node[:]
    graph.node.extend(nodes)


def _evaluate(model: onnx.ModelProto, node: Any, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Return the outputs of one node of a model, computed as the model's own opset defines the operation."""
    ends = [[onnx.ValueInfoProto(name=name) for name in names] for names in (inputs, node.output)]
    alone = helper.make_model(helper.make_graph([node], "node", *ends), opset_imports=model.opset_import)
    return [np.asarray(value) for value in ReferenceEvaluator(alone).run(None, inputs)]
