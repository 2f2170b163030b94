"""What one operation of an ONNX file has to do: its kind, its multiply-accumulates, what it reads and writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hwnas.kernels.batch import Kernel
from hwnas.kernels.graph import OnnxGraph, Shape, name_of
from hwnas.kernels.shapes import attribute

GATES = frozenset(
    {
        "HardSwish",
        "HardSigmoid",
        "HSigmoid",
        "Sigmoid",
        "Swish",
        "Gelu",
        "FastGelu",
        "Mish",
        "Tanh",
        "Elu",
        "Selu",
        "Softplus",
    }
)
"""Operations that compute more of an element than a comparison."""
UNARY = {
    *("Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "HardSwish", "Elu", "Selu", "PRelu", "Softplus"),
    *(
        "Gelu",
        "Mish",
        "Erf",
        "Exp",
        "Log",
        "Sqrt",
        "Neg",
        "Abs",
        "Floor",
        "Ceil",
        "Reciprocal",
        "Pow",
        "Swish",
        "Round",
    ),
    *("Softsign", "Sign", "Sin", "Cos", "ThresholdedRelu", "Celu", "HSigmoid", "FastGelu", "Not", "IsNaN", "IsInf"),
}
"""Element-wise operations of one input."""

KINDS = {
    "MaxPool": "max_pool",
    "AveragePool": "avg_pool",
    "LpPool": "avg_pool",
    "GlobalAveragePool": "global_pool",
    "GlobalMaxPool": "global_pool",
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean", "Max", "Min"), "add"),
    **dict.fromkeys(("Mul", "Div"), "mul"),
    "Concat": "concat",
    "Split": "split",
    "Transpose": "transpose",
    "Resize": "resize",
    "Upsample": "resize",
    "Softmax": "softmax",
    "LogSoftmax": "softmax",
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "GroupNormalization"), "norm"),
    **dict.fromkeys(("LayerNormalization", "LpNormalization", "LRN", "RMSNormalization"), "norm"),
    **dict.fromkeys(("Slice", "Pad", "Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"), "copy"),
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK"), "reduce"),
    **dict.fromkeys(("GatherND", "ScatterND", "GatherElements", "ScatterElements", "Compress"), "copy"),
    **dict.fromkeys(UNARY, "elementwise"),
}

CONVOLUTIONS = {
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "ConvInteger": (0, 1),
    "DeformConv": (0, 1),
    "QLinearConv": (0, 3),
}
"""Operation -> which of its inputs are the tensor and the weight."""

PRODUCTS = {"Gemm": (0, 1), "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}
"""Operation -> which of its inputs are multiplied."""

_RECURRENT = ("RNN", "GRU", "LSTM")


def channels(shape: Shape) -> tuple[int, int]:
    """Return channels and positions (batch times pixels) of a tensor."""
    count = shape[1] if len(shape) > 2 else shape[-1] if shape else 1
    return count, math.prod(shape) // max(count, 1)


def _convolution(node: Any, graph: OnnxGraph) -> Kernel:
    data, weight = (node.input[index] for index in CONVOLUTIONS[node.op_type])
    (in_channels, in_pixels), (out_channels, out_pixels) = (
        channels(graph.known(name)) for name in (data, node.output[0])
    )
    groups, window = attribute(node, "group", 1), math.prod(graph.known(weight)[2:])
    made = Kernel.conv(
        (in_channels, out_channels),
        (in_pixels, out_pixels),
        window,
        stride=max(attribute(node, "strides", [1])),
        groups=groups,
        name=name_of(node),
    )
    if node.op_type != "ConvTranspose":
        return made
    return replace(made, macs=window * in_channels / groups * out_channels * in_pixels)


def _product(node: Any, graph: OnnxGraph, written: float) -> Kernel:
    left, right = (node.input[index] for index in PRODUCTS[node.op_type])
    sides = graph.known(left)
    inner = sides[0] if node.op_type == "Gemm" and attribute(node, "transA", 0) else sides[-1]
    weight = left if left in graph.constants else right if right in graph.constants else None
    if weight is None:
        columns = graph.known(node.output[0])[-1] if graph.known(node.output[0]) else 1
        return _moving(node, graph, "matmul", macs=written * inner, channels_of=(inner, columns))
    elements = graph.elements(weight)
    features = int(elements) // inner
    return replace(
        Kernel.linear(inner, features, positions=max(int(written) // features, 1), name=name_of(node)),
        macs=written * inner,
        written=written,
        read=graph.elements(right if weight == left else left),
    )


def _macs(node: Any, graph: OnnxGraph) -> float:
    """Return the multiply-accumulates of an operation that is neither a convolution nor a product of matrices."""
    if node.op_type in _RECURRENT:
        steps, batch = graph.known(node.input[0])[:2]
        return steps * batch * (graph.elements(node.input[1]) + graph.elements(node.input[2]))
    if node.op_type == "Einsum":
        terms = attribute(node, "equation", b"").decode().replace(" ", "").split("->")[0].split(",")
        sides = {
            letter: side
            for term, name in zip(terms, node.input, strict=True)
            for letter, side in zip(reversed(term), reversed(graph.known(name)), strict=False)
        }
        return float(math.prod(sides.values()))
    return 0.0


def _moving(
    node: Any, graph: OnnxGraph, kind: str, *, macs: float = 0.0, channels_of: tuple[int, int] | None = None
) -> Kernel:
    inputs = graph.activations(node)
    first = channels(graph.known(inputs[0]))
    last = channels(graph.known(node.output[0]))
    return Kernel(
        kind=kind,
        macs=macs,
        read=sum(graph.elements(name) for name in dict.fromkeys(inputs)),
        written=_written(node, graph),
        in_channels=channels_of[0] if channels_of else first[0],
        out_channels=channels_of[1] if channels_of else last[0],
        in_pixels=first[1],
        out_pixels=last[1],
        window=math.prod(attribute(node, "kernel_shape", [1])),
        stride=max(attribute(node, "strides", [1])),
        name=name_of(node),
    )


def _written(node: Any, graph: OnnxGraph) -> float:
    return sum(graph.elements(name) for name in node.output if name)


def scaling(node: Any, graph: OnnxGraph) -> Kernel:
    """Return an operation that scales (and moves) every channel, as a convolution of one pixel."""
    count, pixels = channels(graph.known(node.output[0]))
    return Kernel.conv((count, count), (pixels, pixels), 1, groups=count, name=name_of(node))


def kernel_of(node: Any, graph: OnnxGraph) -> Kernel:
    """Return the kernel of a node that is computed alone.

    Raises:
        ModelFileError: A shape is not fixed.
    """
    if node.op_type in CONVOLUTIONS:
        return _convolution(node, graph)
    if node.op_type in PRODUCTS:
        return _product(node, graph, _written(node, graph))
    kind = KINDS.get(node.op_type, "other")
    if node.op_type.startswith("Reduce"):
        first = graph.known(graph.activations(node)[0])
        kind = (
            "global_pool" if node.op_type == "ReduceMean" and _pools(first, graph.known(node.output[0])) else "reduce"
        )
    return _moving(node, graph, kind, macs=_macs(node, graph))


def _pools(before: Sequence[int], after: Sequence[int]) -> bool:
    """Return whether a mean over ``before`` leaves one value per channel of each image."""
    return len(before) == 4 and channels(tuple(after))[1] <= before[0]
