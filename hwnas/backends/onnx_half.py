"""A float32 ONNX model as one that holds and computes everything in float16, with float32 inputs and outputs.

A runtime with strongly typed networks (TensorRT) computes in the types that are written in the file, so nothing may be left
in float32 by accident: the result's types are inferred and checked.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwnas.errors import ModelFileError

LARGEST = float(np.finfo(np.float16).max)
_FLOAT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Operation -> inputs that the standard wants in float32 whatever the type of the images: sizes, not values."""


def _half_tensor(tensor: TensorProto) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    if values.size and not np.abs(values).max() <= LARGEST:
        raise ModelFileError(
            f"{tensor.name or 'a constant'} holds values beyond {LARGEST:g}, the largest number of float16; use fp32."
        )
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _half_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> None:
    """Convert what a node holds: constants, and the type that a Cast makes."""
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        raise ModelFileError(
            f"node {node.name!r} ({node.op_type}) holds a graph, which cannot be made float16; use fp32."
        )
    if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
        attribute.t.CopyFrom(_half_tensor(attribute.t))
    elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        values = np.array(helper.get_attribute_value(attribute), dtype=np.float32)
        attribute.CopyFrom(helper.make_attribute("value", _half_tensor(numpy_helper.from_array(values))))
    elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
        attribute.i = TensorProto.FLOAT16


def _rename(graph: onnx.GraphProto, name: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, found in enumerate(names):
                if found == name:
                    names[index] = new


def _cast_at_the_boundary(graph: onnx.GraphProto) -> None:
    """Let every float32 input and output of the graph stay so, with a Cast between it and the rest."""
    first, last = [], []
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            _rename(graph, value.name, f"{value.name}.half")
            first.append(helper.make_node("Cast", [value.name], [f"{value.name}.half"], f"{value.name}.half", to=10))
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            _rename(graph, value.name, f"{value.name}.half")
            last.append(helper.make_node("Cast", [f"{value.name}.half"], [value.name], f"{value.name}.float", to=1))
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 model in float16; the one given stays as it is.

    Args:
        model: Without subgraphs; weights lie inside.

    Raises:
        ModelFileError: A weight is too large for float16, or the types of the result contradict each other.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    sizes = {
        node.input[index]
        for node in graph.node
        for index in _FLOAT_INPUTS.get(node.op_type, ())
        if index < len(node.input) and node.input[index]
    }
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in sizes:
            tensor.CopyFrom(_half_tensor(tensor))
    for node in graph.node:
        if not sizes.intersection(node.output):
            for attribute in node.attribute:
                _half_attribute(node, attribute)
    del graph.value_info[:]
    _cast_at_the_boundary(graph)
    try:
        onnx.checker.check_model(half, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelFileError(f"the network cannot be made float16: {str(error).splitlines()[0]}; use fp32.") from error
    return half
