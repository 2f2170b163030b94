"""Which nodes of a file each node of the graph that ONNX Runtime wrote computes.

ONNX Runtime names a convolution after the tensor it made before a sum was fused into it, and a fused product or
activation after a node it replaced. From there the data flow of the file tells the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from hwnas.devices.models import KernelTime
from hwnas.kernels.graph import name_of
from hwnas.kernels.shapes import attribute

_LAYOUT = ("ReorderInput", "ReorderOutput")
_SUFFIX = re.compile(
    r"(_token_\d+|_nchwc|_nhwc|_bn|_scale|_mul|_out0|/(MatMul|Gemm|Gelu|QuickGelu|Conv)\w*Fusion\w*/?)$"
)
_PASSED = ("Identity", "Dropout")
_FUNCTIONS = ("HardSwish", "Mish", "Swish", "Celu")
"""Operations that are written out as others, without names."""


class _Given:
    """Data flow of the file as it was given."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(str(path), load_external_data=False).graph
        self.nodes = list(graph.node)
        self.maker = {name: node for node in self.nodes for name in node.output if name}
        self.named = {name_of(node): node for node in self.nodes}
        self.tensors = set(self.maker) | {value.name for value in graph.input}
        self.readers: dict[str, list[Any]] = {}
        self._first: dict[str, str] = {}
        """Tensor -> the first one that is computed alike."""
        seen: dict[tuple[Any, ...], Any] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            settings = tuple(sorted(entry.SerializeToString(deterministic=True) for entry in node.attribute))
            first = seen.setdefault((node.op_type, tuple(map(self.source, node.input)), settings), node)
            self._first |= dict(zip(node.output, first.output, strict=False))

    def tensor(self, name: str) -> str | None:
        """Return the tensor that a tensor or node of the written graph is named after."""
        while True:
            if name in self.tensors:
                return name
            if name in self.named:
                return str(self.named[name].output[0])
            shorter = _SUFFIX.sub("", name)
            if shorter == name:
                return None
            name = shorter

    def after(self, name: str, ops: tuple[str, ...], other: str | None = None) -> str:
        """Return what the reader of a tensor makes that is one of some operations (and reads another tensor too)."""
        for node in self.readers.get(name, []):
            if node.op_type in _PASSED:
                found = self.after(node.output[0], ops, other)
                if found != node.output[0]:
                    return found
            if node.op_type in ops and (other is None or other in map(self.source, node.input)):
                return str(node.output[0])
        return name

    def source(self, name: str) -> str:
        """Return the tensor that a tensor is a mere copy of, or the first one that is computed alike."""
        node = self.maker.get(name)
        return (
            self.source(node.input[0]) if node is not None and node.op_type in _PASSED else self._first.get(name, name)
        )

    def between(self, ends: list[str], stops: set[str], last: str = "") -> Iterator[str]:
        """Yield the names of the nodes that compute some tensors from others, none before one of the operation ``last``."""
        stops = set(map(self.source, stops))
        waiting, seen = [name for name in ends if self.source(name) not in stops], set()
        while waiting:
            node = self.maker.get(waiting.pop())
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            yield name_of(node)
            if node.op_type == last:
                continue
            waiting.extend(name for name in node.input if self.source(name) not in stops)


def _made(node: Any, given: _Given, origin: dict[str, str]) -> list[str]:
    """Return the tensors of the file that a node of the written graph makes."""
    direct = [name for name in node.output if name in given.tensors]
    if direct:
        return direct
    if node.op_type == "Reshape":
        return [origin.get(node.input[0], node.input[0])]
    found = given.tensor(node.name)
    if found is None:
        read = [reader for name in node.input for reader in given.readers.get(origin.get(name, name), ())]
        return [str(reader.output[0]) for reader in read if reader.op_type in _FUNCTIONS][:1]
    if "MatMulAddFusion" in node.name:
        return [given.after(found, ("Add",))]
    if node.op_type not in ("Conv", "FusedConv"):
        return list(given.maker[found].output) if found in given.maker else [found]
    maker = given.maker.get(found)
    if len(node.input) > 3 and node.input[3]:
        found = given.after(found, ("Add", "Sum"), given.source(origin.get(node.input[3], node.input[3])))
    activation = attribute(node, "activation", b"").decode()
    if activation and (maker is None or maker.op_type != activation or given.maker[found] is not maker):
        made = given.after(found, (activation,))
        found = given.after(found, ("Mul",)) if made == found and activation == "HardSwish" else made
    return [found]


def executed_by_onnxruntime(given: Path, optimised: Path) -> list[KernelTime]:
    """Return what ONNX Runtime runs, with the nodes of the given file in each kernel; without times.

    Args:
        given: The file that a session opened.
        optimised: The file that it wrote after all its optimisations.
    """
    flow = _Given(given)
    origin: dict[str, str] = {}
    kernels, made_by = [], []
    written = onnx.load(str(optimised), load_external_data=False).graph
    nodes = list(written.node)
    known = flow.tensors | {tensor.name for tensor in written.initializer}
    for node in nodes:
        layout = node.op_type in _LAYOUT
        made = [name for name in node.output if name in flow.tensors] if layout else _made(node, flow, origin)
        if layout and not made:
            made = [origin.get(node.input[0], node.input[0])]
        origin |= dict(zip(node.output, made, strict=False))
        made_by.append(made)
    for node, made in zip(nodes, made_by, strict=True):
        names: tuple[str, ...] = ()
        if node.op_type not in _LAYOUT:
            stops = {origin.get(name, name) for name in node.input if name}
            lost = any(name and name not in origin and name not in known for name in node.input)
            last = node.op_type.removeprefix("Fused") if lost else ""
            names = tuple(dict.fromkeys(flow.between(made, stops, last)))
        kernels.append(KernelTime(node.name, node.op_type, 0.0, tuple(made), names))
    return kernels
