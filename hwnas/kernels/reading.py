"""Kernels of an ONNX file, without a session: what a runtime will run as one unit, with every shape.

What a runtime fuses is a property of the runtime, written down in :data:`FUSIONS` and held to what it really runs by tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from hwnas.errors import ConfigError, ModelFileError
from hwnas.kernels.batch import Kernel

Shape = tuple[int, ...]

_UNARY = {
    *("Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "HardSwish", "Elu", "Selu", "PRelu", "Softplus"),
    *("Gelu", "Mish", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs", "Floor", "Ceil", "Reciprocal", "Pow", "Swish"),
}
_KINDS = {
    "MaxPool": "max_pool",
    "AveragePool": "avg_pool",
    "LpPool": "avg_pool",
    "GlobalAveragePool": "global_pool",
    "GlobalMaxPool": "global_pool",
    "Add": "add",
    "Sub": "add",
    "Sum": "add",
    "Mul": "mul",
    "Div": "mul",
    "Concat": "concat",
    "Split": "split",
    "Transpose": "transpose",
    "Resize": "resize",
    "Upsample": "resize",
    "Softmax": "softmax",
    "LogSoftmax": "softmax",
    "BatchNormalization": "norm",
    "InstanceNormalization": "norm",
    "GroupNormalization": "norm",
    "LayerNormalization": "norm",
    "LpNormalization": "norm",
    "LRN": "norm",
    **dict.fromkeys(("Slice", "Pad", "Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"), "copy"),
    **dict.fromkeys(_UNARY, "elementwise"),
}
_FREE = {
    *("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Constant", "ConstantOfShape", "Shape"),
    *("QuantizeLinear", "DequantizeLinear", "Cast"),
}
"""Operations that move nothing, or vanish into their neighbours."""


_ARITHMETIC = {
    *("Constant", "Gather", "Add", "Sub", "Mul", "Div", "Floor", "Cast", "Concat", "Slice", "Squeeze", "Unsqueeze"),
    *("Reshape", "ConstantOfShape", "Equal", "Where", "Range", "Expand", "Neg", "Mod"),
}
"""Operations that exporters compute shapes with."""

_FOLDED = ("Add", "Mul")
"""With a constant, behind a convolution: part of its weight or bias."""

_CHAINED = ("elementwise", "norm", "add", "mul")

_SMALL = 64
"""Elements of a tensor that may be a shape."""


@dataclass(frozen=True)
class Fusion:
    """What a runtime computes together with a convolution or matrix product before it.

    Attributes:
        behind_conv: Operations of one input behind a convolution.
        behind_linear: The same behind a matrix product.
        sums: Whether the sum of a convolution with another tensor is computed with it.
        behind_sum: Operations of one input behind such a sum.
        norm_is_conv: Whether a batch normalisation that is not folded into a convolution runs as one.
        chains: Whether element-wise operations behind one another are one kernel.
        slices: Whether slices of one tensor are cut by one kernel.
        splits: Operations that, where they stay alone, run as two kernels: their second factor, and the product.
    """

    behind_conv: frozenset[str]
    behind_linear: frozenset[str]
    sums: bool
    behind_sum: frozenset[str]
    norm_is_conv: bool = False
    chains: bool = False
    splits: frozenset[str] = frozenset()
    slices: bool = False


_ORT = frozenset({"Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid"})
_ORT_CONV = _ORT | {"Clip", "HardSwish"}
_OPENVINO = frozenset(_UNARY) - {"HardSigmoid"}
FUSIONS = {
    "onnxruntime": Fusion(
        _ORT_CONV,
        _ORT,
        sums=True,
        behind_sum=_ORT_CONV,
        norm_is_conv=True,
        splits=frozenset({"HardSwish"}),
        slices=True,
    ),
    "openvino": Fusion(_OPENVINO, _OPENVINO, sums=True, behind_sum=_OPENVINO, chains=True, slices=True),
}
"""Runtime -> what it fuses on a CPU."""


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
    }
    known = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if not tensor.external_data and math.prod(tensor.dims) <= _SMALL
    }
    folded = []
    for node in graph.node:
        if node.op_type == "Shape" and -1 not in sides.get(node.input[0], [-1]):
            whole = slice(_attribute(node, "start", 0), _attribute(node, "end", None))
            values = [np.array(sides[node.input[0]][whole], dtype=np.int64)]
        elif (
            node.op_type != "Shape"
            and node.op_type in _ARITHMETIC
            and all(name in known for name in node.input if name)
        ):
            try:
                values = list(ReferenceEvaluator(node).run(None, {name: known[name] for name in node.input if name}))
            except Exception:  # an older form of the operation: its shapes stay unknown, and are named if they matter
                continue
        else:
            continue
        if all(value.size <= _SMALL for value in values):
            known |= dict(zip(node.output, values, strict=True))
            folded.append(node)
    for node in folded:
        graph.node.remove(node)
        graph.initializer.extend(numpy_helper.from_array(np.asarray(known[name]), name) for name in node.output)
    return bool(folded)


class _Graph:
    """Nodes in order, shapes, constants and readers of an ONNX graph."""

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
        self.readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.results = {value.name for value in graph.output}
        self._join_swishes()

    def _join_swishes(self) -> None:
        """Take ``x * sigmoid(x)`` for one operation, ``Swish``, as runtimes do."""
        makers = {name: node for node in self.nodes for name in node.output}
        for node in list(self.nodes):
            gate = next(
                (makers[name] for name in node.input if name in makers and makers[name].op_type == "Sigmoid"), None
            )
            if node.op_type != "Mul" or gate is None or not self.read_once(gate.output[0]):
                continue
            if gate.input[0] in node.input:
                index = self.nodes.index(node)
                self.nodes[index] = helper.make_node("Swish", [gate.input[0]], list(node.output), name=node.name)
                self.nodes.remove(gate)
                self.readers[gate.input[0]] = [
                    other for other in self.readers[gate.input[0]] if other not in (gate, node)
                ] + [self.nodes[index - 1]]

    def shape(self, name: str) -> Shape:
        if name not in self.shapes:
            raise ModelFileError(f"{self.path}: the shape of tensor {name!r} is not known. Export the model again.")
        return self.shapes[name]

    def known(self, name: str) -> Shape:
        shape = self.shape(name)
        if any(side < 0 for side in shape):
            raise ModelFileError(
                f"{self.path}: tensor {name!r} has the shape {_text(shape)}: a latency belongs to fixed shapes."
            )
        return shape

    def elements(self, name: str) -> float:
        return float(math.prod(self.known(name)))

    def activations(self, node: Any) -> list[str]:
        return [name for name in node.input if name and name not in self.constants]

    def read_once(self, name: str) -> bool:
        return len(self.readers.get(name, [])) == 1 and name not in self.results


def _text(shape: Shape) -> str:
    return "[" + ", ".join("?" if side < 0 else str(side) for side in shape) + "]"


def _attribute(node: Any, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _channels(shape: Shape) -> tuple[int, int]:
    """Return channels and positions (batch times pixels) of a tensor."""
    channels = shape[1] if len(shape) > 2 else shape[-1] if shape else 1
    return channels, math.prod(shape) // max(channels, 1)


def _make(node: Any, graph: _Graph, norms: bool) -> Kernel:
    """Return the kernel of a node that stands alone; with ``norms`` a batch normalisation is a convolution."""
    inputs, output = graph.activations(node), node.output[0]
    written = sum(graph.elements(name) for name in node.output if name and name not in graph.integers)
    name = node.name or output
    first = graph.known(inputs[0])
    (in_channels, in_pixels), (out_channels, out_pixels) = _channels(first), _channels(graph.known(output))
    weights = [graph.shapes[entry] for entry in node.input if entry in graph.constants and entry in graph.shapes]
    if node.op_type in ("Conv", "ConvTranspose") and weights:
        groups, window = _attribute(node, "group", 1), math.prod(weights[0][2:])
        stride = max(_attribute(node, "strides", [1]))
        made = Kernel.conv(
            (in_channels, out_channels),
            (in_pixels, out_pixels),
            window,
            stride=stride,
            groups=groups,
            name=name,
        )
        if node.op_type == "Conv":
            return made
        return replace(made, macs=window * in_channels / groups * out_channels * in_pixels)
    if node.op_type in ("Gemm", "MatMul") and len(inputs) == 1 and weights:
        features = int(graph.known(output)[-1])
        return Kernel.linear(first[-1], features, positions=int(written) // features, name=name)
    if node.op_type == "BatchNormalization" and len(first) == 4 and norms:
        return Kernel.conv((in_channels, in_channels), (in_pixels, in_pixels), 1, groups=in_channels, name=name)
    kind = _KINDS.get(node.op_type, "other")
    if node.op_type in ("Gemm", "MatMul"):
        kind = "matmul"
    elif node.op_type == "ReduceMean" and len(first) == 4 and out_pixels <= first[0]:
        kind = "global_pool"
    elif node.op_type.startswith("Reduce"):
        kind = "reduce"
    return Kernel(
        kind=kind,
        macs=written * first[-1] if kind == "matmul" else 0.0,
        read=sum(graph.elements(entry) for entry in inputs),
        written=written,
        in_channels=in_channels,
        out_channels=out_channels,
        in_pixels=in_pixels,
        out_pixels=out_pixels,
        window=math.prod(_attribute(node, "kernel_shape", [1])),
        stride=max(_attribute(node, "strides", [1])),
        name=name,
    )


class _Partition:
    """Kernels as they are found, and which kernel made each tensor."""

    def __init__(self, graph: _Graph, fusion: Fusion) -> None:
        self.graph = graph
        self.fusion = fusion
        self.kernels: list[Kernel] = []
        self.ends: list[str] = []
        """Last operation in each kernel: what may still be fused behind it depends on it."""
        self.cut: dict[str, int] = {}
        """Tensor -> the kernel that slices it."""
        self.maker: dict[str, int] = {}

    def add(self, node: Any) -> None:
        graph = self.graph
        if all(name in graph.constants for name in node.output):
            return
        inputs = graph.activations(node)
        if node.op_type in _FREE or not inputs or all(name in graph.integers for name in node.output):
            if inputs and inputs[0] in self.maker:
                self.maker[node.output[0]] = self.maker[inputs[0]]
            return
        host = self._host(node, inputs)
        if host is None:
            self._start(node, _make(node, graph, self.fusion.norm_is_conv))
            host = len(self.kernels) - 1
            if node.op_type == "Slice":
                self.cut[inputs[0]] = host
        elif node.op_type == "Slice":
            cut = self.kernels[host]
            self.kernels[host] = replace(cut, kind="split", written=cut.written + self.graph.elements(node.output[0]))
        elif node.op_type not in (*_FOLDED, "BatchNormalization") or len(inputs) > 1:
            self.kernels[host] = self._fused(host, inputs)
            self.ends[host] = node.op_type
        for name in node.output:
            self.maker[name] = host

    def _start(self, node: Any, kernel: Kernel) -> None:
        if node.op_type in self.fusion.splits:
            self.kernels.append(kernel)
            self.ends.append(node.op_type)
            kernel = replace(kernel, kind="mul", read=kernel.read + kernel.written)
        self.kernels.append(kernel)
        self.ends.append("Conv" if kernel.kind in ("conv", "depthwise") else node.op_type)

    def _fused(self, host: int, inputs: list[str]) -> Kernel:
        kernel = self.kernels[host].with_epilogue()
        others = [name for name in inputs if self.maker.get(name) != host]
        return replace(kernel, read=kernel.read + sum(self.graph.elements(name) for name in others))

    def _host(self, node: Any, inputs: list[str]) -> int | None:
        """Return the kernel that a node is computed with, if its runtime fuses it."""
        if node.op_type == "Slice" and self.fusion.slices:
            return self.cut.get(inputs[0])
        for name in reversed(inputs):
            host = self.maker.get(name)
            if host is None or not self.graph.read_once(name):
                continue
            kind, end = self.kernels[host].kind, self.ends[host]
            if self._takes(kind, end, node, inputs):
                return host
        return None

    def _takes(self, kind: str, end: str, node: Any, inputs: list[str]) -> bool:
        conv, linear = kind in ("conv", "depthwise"), kind == "linear"
        op, fusion = node.op_type, self.fusion
        if op == "BatchNormalization":
            return conv and end == "Conv"
        if conv and end == "Conv" and op in _FOLDED and len(inputs) == 1 and len(node.input) == 2:
            return True
        if conv and end == "Conv" and op == "Add" and len(inputs) == 2:
            return fusion.sums and self.graph.known(inputs[0]) == self.graph.known(inputs[1])
        if linear and end == "MatMul" and op == "Add" and len(inputs) == 1:
            return True
        if conv and end == "Conv":
            return op in fusion.behind_conv
        if conv and end == "Add":
            return op in fusion.behind_sum
        if kind in _CHAINED:
            return fusion.chains and op in fusion.behind_sum
        return linear and end in ("Gemm", "MatMul", "Add") and op in fusion.behind_linear


def kernels_of_onnx(path: Path, runtime: str) -> list[Kernel]:
    """Return the kernels that a runtime will run for an ONNX file, in order.

    Args:
        path: The file; weights in other files are not read.
        runtime: One of :data:`FUSIONS`.

    Raises:
        ConfigError: What that runtime fuses is not known.
        ModelFileError: The file cannot be read, or shapes are not fixed.
    """
    if runtime not in FUSIONS:
        raise ConfigError(f"kernels of {runtime} cannot be told from a file yet; known: {', '.join(FUSIONS)}.")
    graph = _Graph(Path(path))
    return partition(graph.nodes, graph, FUSIONS[runtime])


def partition(nodes: Iterable[Any], graph: _Graph, fusion: Fusion) -> list[Kernel]:
    """Return the kernels of nodes in order of execution."""
    found = _Partition(graph, fusion)
    for node in nodes:
        found.add(node)
    if not found.kernels:
        raise ModelFileError(f"{graph.path} computes nothing.")
    return found.kernels
