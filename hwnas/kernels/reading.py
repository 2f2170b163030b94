"""Kernels of an ONNX file, without a session: what a runtime will run as one unit, with every shape.

What a runtime fuses is a property of the runtime (``fusion.py``).
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwnas.errors import ConfigError, ModelFileError
from hwnas.kernels.batch import Kernel
from hwnas.kernels.fusion import FUSIONS, UNARY, Fusion
from hwnas.kernels.graph import OnnxGraph, Shape, attribute

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
    **dict.fromkeys(UNARY, "elementwise"),
}
_FREE = {
    *("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Constant", "ConstantOfShape", "Shape"),
    *("QuantizeLinear", "DequantizeLinear", "Cast"),
}
"""Operations that move nothing, or vanish into their neighbours."""


_FOLDED = ("Add", "Mul")
"""With a constant, behind a convolution: part of its weight or bias."""

_CHAINED = ("elementwise", "norm", "add", "mul")


def _channels(shape: Shape) -> tuple[int, int]:
    """Return channels and positions (batch times pixels) of a tensor."""
    channels = shape[1] if len(shape) > 2 else shape[-1] if shape else 1
    return channels, math.prod(shape) // max(channels, 1)


def _make(node: Any, graph: OnnxGraph, norms: bool) -> Kernel:
    """Return the kernel of a node that stands alone; with ``norms`` a batch normalisation is a convolution."""
    inputs, output = graph.activations(node), node.output[0]
    written = sum(graph.elements(name) for name in node.output if name and name not in graph.integers)
    name = node.name or output
    first = graph.known(inputs[0])
    (in_channels, in_pixels), (out_channels, out_pixels) = _channels(first), _channels(graph.known(output))
    weights = [graph.shapes[entry] for entry in node.input if entry in graph.constants and entry in graph.shapes]
    if node.op_type in ("Conv", "ConvTranspose") and weights:
        groups, window = attribute(node, "group", 1), math.prod(weights[0][2:])
        stride = max(attribute(node, "strides", [1]))
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
        window=math.prod(attribute(node, "kernel_shape", [1])),
        stride=max(attribute(node, "strides", [1])),
        name=name,
    )


class _Partition:
    """Kernels as they are found, and which kernel made each tensor."""

    def __init__(self, graph: OnnxGraph, fusion: Fusion) -> None:
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
    graph = OnnxGraph(Path(path))
    found = _Partition(graph, FUSIONS[runtime])
    for node in graph.nodes:
        found.add(node)
    if not found.kernels:
        raise ModelFileError(f"{path} computes nothing.")
    return found.kernels
