"""Kernels as they are found, node by node; what belongs together is told by the runtimes' own classes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from hwnas.kernels.batch import Kernel
from hwnas.kernels.fusion import Fusion
from hwnas.kernels.graph import OnnxGraph, Shape
from hwnas.kernels.work import channels, kernel_of

FREE = {
    *("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Constant", "ConstantOfShape", "Shape"),
    *("QuantizeLinear", "DequantizeLinear", "Cast", "CastLike", "Size"),
}
"""Operations that move nothing, vanish into their neighbours, or convert (an overhead that no network computes with)."""

_WEIGHTED = ("conv", "deconv", "features", "matmul")
_LINEAR = ("Add", "Sub", "Mul", "Div", "BatchNormalization")


class Partition(ABC):
    """The kernels of a graph.

    A kernel has a *stage*: what the runtime may still compute with it. An operation either joins a kernel, which then
    gets another stage, or starts one.

    Args:
        graph: Already rewritten as the runtime does it.
        fusion: What the runtime computes together.
    """

    def __init__(self, graph: OnnxGraph, fusion: Fusion) -> None:
        self.graph = graph
        self.fusion = fusion
        self.kernels: dict[int, Kernel] = {}
        self.stages: dict[int, str] = {}
        self.maker: dict[str, int] = {}
        """Tensor -> the kernel that makes it."""
        self.feeds: dict[int, set[int]] = {}
        """Kernel -> kernels whose tensors it reads."""
        self._once: dict[str, bool] = {}
        """Tensor -> whether one node alone reads what its kernel computed."""
        self._cut: dict[str, int] = {}
        self._next = 0

    def read(self) -> list[Kernel]:
        """Return the kernels in the order in which their last operations stand in the file."""
        for node in self.graph.nodes:
            self._add(node)
        return list(self.kernels.values())

    @abstractmethod
    def place(self, node: Any, inputs: list[str]) -> tuple[int, str] | None:
        """Return the kernel that a node is computed with and its stage from then on, or ``None``."""

    @abstractmethod
    def stage_of(self, node: Any, inputs: list[str]) -> str:
        """Return the stage of a kernel that a node starts."""

    def single(self, name: str) -> int | None:
        """Return the kernel that makes a tensor if nobody else reads it."""
        return self.maker.get(name) if self._once.get(name, False) else None

    def change_of_layout(self, name: str, *nodes: str) -> Kernel:
        """Return the kernel that changes the layout of a tensor ``[batch, channels, ...]``."""
        elements, shape = self.graph.elements(name), self.graph.known(name)
        pixels = math.prod(shape) // max(shape[1], 1)
        return Kernel(
            kind="reorder",
            read=elements,
            written=elements,
            in_channels=shape[1],
            out_channels=shape[1],
            in_pixels=pixels,
            out_pixels=pixels,
            name=f"reorder {name}",
            nodes=nodes,
        )

    def _add(self, node: Any) -> None:
        inputs = self.graph.activations(node)
        if not inputs or self.is_free(node, inputs):
            self._pass_on(node, inputs)
            return
        if node.op_type == "Slice" and inputs[0] in self._cut:
            host = self._cut[inputs[0]]
            cut = self.kernels[host]
            written = cut.written + self.graph.elements(node.output[0])
            self.kernels[host] = replace(cut, kind="split", written=written, nodes=self._named(cut, node))
        else:
            placed = self.place(node, inputs)
            host = self._start(node, inputs) if placed is None else self._join(node, inputs, *placed)
        self.feeds.setdefault(host, set()).update({self.maker[name] for name in inputs if name in self.maker} - {host})
        for name in node.output:
            self.maker[name] = host
            self._once[name] = self.graph.read_once(name)

    def is_free(self, node: Any, inputs: list[str]) -> bool:
        """Return whether a node is no kernel and part of none."""
        return node.op_type in FREE or all(name in self.graph.integers for name in (*inputs, *node.output) if name)

    def _pass_on(self, node: Any, inputs: list[str]) -> None:
        if inputs and inputs[0] in self.maker and self.passes_views:
            self.maker[node.output[0]] = self.maker[inputs[0]]
            self._once[node.output[0]] = self._once[inputs[0]] and self.graph.read_once(node.output[0])

    passes_views = True
    """Whether a runtime fuses through operations that only change a shape."""

    def _start(self, node: Any, inputs: list[str]) -> int:
        names, kinds = self.graph.names(node), self.pieces_of(node)
        kernel = self.made(node)
        split = [(name,) for name in names] if kinds and len(names) == len(kinds) else [names] * max(len(kinds), 1)
        for kind, part in zip(kinds[:-1], split, strict=False):
            self._keep(replace(kernel, kind=kind, nodes=part), "")
        kernel = replace(kernel, kind=kinds[-1] if kinds else kernel.kind, nodes=split[-1])
        host = self._keep(kernel, self.stage_of(node, inputs))
        if node.op_type == "Slice":
            self._cut[inputs[0]] = host
        return host

    def pieces_of(self, node: Any) -> tuple[str, ...]:
        """Return the kinds of the kernels that a node is run as, if they are several."""
        return self.fusion.several.get(node.op_type, ())

    def made(self, node: Any) -> Kernel:
        """Return the kernel of a node that starts one."""
        return kernel_of(node, self.graph)

    def _keep(self, kernel: Kernel, stage: str) -> int:
        self._next += 1
        self.kernels[self._next] = kernel
        self.stages[self._next] = stage
        return self._next

    @property
    def upcoming(self) -> int:
        """The number that the next kernel gets."""
        return self._next + 1

    def _named(self, kernel: Kernel, node: Any) -> tuple[str, ...]:
        return (*kernel.nodes, *self.graph.names(node))

    def _join(self, node: Any, inputs: list[str], host: int, stage: str) -> int:
        kernel = self.kernels.pop(host)
        if not self._folded(node, inputs, host):
            others = [name for name in dict.fromkeys(inputs) if self.maker.get(name) != host]
            pixels = channels(self.graph.known(node.output[0]))[1]
            kernel = replace(
                kernel.with_epilogue(node.op_type in self.fusion.gates),
                read=kernel.read + sum(self.graph.elements(name) for name in others),
                written=max(kernel.written, self.graph.elements(node.output[0])),
                out_pixels=max(kernel.out_pixels, pixels),
            )
        self.kernels[host] = replace(kernel, nodes=self._named(kernel, node))
        self.stages[host] = stage
        return host

    def _folded(self, node: Any, inputs: list[str], host: int) -> bool:
        """Return whether an operation with constants vanishes into the weights of a kernel."""
        return len(inputs) == 1 and self.stages[host] in _WEIGHTED and node.op_type in _LINEAR

    def merge(self, hosts: list[int]) -> int:
        """Make one kernel of several; return which."""
        first, *others = hosts
        for other in others:
            taken, kept = self.kernels.pop(other), self.kernels[first]
            self.kernels[first] = replace(
                kept,
                read=kept.read + taken.read,
                macs=kept.macs + taken.macs,
                epilogue=kept.epilogue + taken.epilogue + 1,
                nodes=(*kept.nodes, *taken.nodes),
            )
            self.maker = {name: first if host == other else host for name, host in self.maker.items()}
        return first


def per_channel(operand: Shape | None, tensor: Shape, axis: int = 1) -> bool:
    """Return whether a constant has one value for each channel of a tensor."""
    if operand is None or len(operand) > len(tensor):
        return False
    sides = (1,) * (len(tensor) - len(operand)) + tuple(operand)
    return all(side == (tensor[index] if index == axis else 1) for index, side in enumerate(sides))


def is_number(operand: Shape | None) -> bool:
    """Return whether a constant is one number."""
    return operand is not None and all(side == 1 for side in operand)
