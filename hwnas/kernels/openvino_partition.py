"""What OpenVINO computes as one kernel on a CPU.

Behind a convolution, a matrix product, a mean or a resize it appends simple operations. Elsewhere it compiles neighbouring
element-wise operations into one kernel, whatever they read, unless a kernel between them has to run in the middle.
Not followed here: its bound on the tensors of such a kernel, operations that it moves before a transpose or into the input
of a product, differences, means and sums of several tensors that it turns into other operations, a transpose that ends
the graph, and which concatenations and slices it need not copy.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hwnas.kernels.batch import Kernel
from hwnas.kernels.fusion import ELEMENTWISE, Fusion
from hwnas.kernels.graph import OnnxGraph
from hwnas.kernels.partition import Partition, is_number, per_channel

_APPENDED = ("GlobalAveragePool", "GlobalMaxPool", "Resize", "Upsample", "InstanceNormalization")
"""Operations, beside convolutions and products, that simple ones are appended to."""
_SCALES = ("Add", "Mul", "Sub", "Div")
_CONSTANT_LAST = ("features", "features simple")
"""Stages of kernels whose channels are the last side of their tensors."""
_OPEN = ("conv", "simple", *_CONSTANT_LAST)


class OpenVinoPartition(Partition):
    """Kernels of OpenVINO."""

    def __init__(self, graph: OnnxGraph, fusion: Fusion) -> None:
        super().__init__(graph, fusion)
        self._convolved: dict[int, str] = {}
        """Convolution -> the tensor it reads."""
        self._needs: dict[str, int] = {}
        """Tensor -> the nodes that have to run before it is there, as bits."""
        self._bits = {node.output[0]: 1 << index for index, node in enumerate(graph.nodes)}
        for node in graph.nodes:
            needs = self._bits[node.output[0]]
            for name in node.input:
                needs |= self._needs.get(name, 0)
            self._needs |= dict.fromkeys(node.output, needs)
        self._taken: Counter[str] = Counter()
        """Constant -> how many of its readers became part of weights."""

    def read(self) -> list[Kernel]:
        """See the base class; the change of layout of an image that a convolution reads is a kernel too."""
        super().read()
        images = {
            node.input[0] for node in self.graph.nodes if node.op_type == "Conv" and node.input[0] not in self.maker
        }
        return [*(self.change_of_layout(name) for name in sorted(images)), *self.kernels.values()]

    def place(self, node: Any, inputs: list[str]) -> tuple[int, str] | None:
        """See the base class."""
        host = self.single(inputs[0])
        if len(inputs) == 1 and host is not None:
            stage = self.stages[host]
            linear = stage in _CONSTANT_LAST
            if stage in _OPEN and node.op_type in (self.fusion.behind_linear if linear else self.fusion.behind_conv):
                return host, "features simple" if linear else "simple"
            if stage in (*_OPEN, "deconv") and self._scales(node, inputs[0], stage):
                return host, stage
        added = self._convolution_of(node, inputs)
        if added is not None:
            host = self.maker[added]
            other = inputs[1] if added == inputs[0] else inputs[0]
            return (host, "simple") if self._may_overwrite(node, host, added, other) else None
        if node.op_type in ELEMENTWISE and node.op_type not in self.fusion.alone:
            return self._compiled(inputs)
        return None

    def _scales(self, node: Any, name: str, stage: str) -> bool:
        """Return whether a node computes with one constant, or with one per channel."""
        if node.op_type == "BatchNormalization":
            return True
        operand, tensor = self.graph.operand(node), self.graph.known(name)
        if node.op_type not in _SCALES or (node.op_type == "Div" and node.input[0] in self.graph.constants):
            return False
        axis = len(tensor) - 1 if stage in _CONSTANT_LAST else 1
        return is_number(operand) or (per_channel(operand, tensor, axis) and self._is_own(node, stage))

    def _is_own(self, node: Any, stage: str) -> bool:
        """Return whether a constant is a node's own: shared ones become part of weights, but no kernel takes them in."""
        fixed = next(name for name in node.input if name in self.graph.constants)
        if stage == "conv" and node.op_type in ("Mul", "Div"):
            self._taken[fixed] += 1
            return True
        readers = [reader for reader in self.graph.readers(fixed) if reader.op_type in _SCALES]
        return len(readers) - self._taken[fixed] == 1

    def _convolution_of(self, node: Any, inputs: list[str]) -> str | None:
        """Return the tensor of a convolution among the two that a node adds."""
        if node.op_type not in ("Add", "Sum") or len(inputs) != 2 or inputs[0] == inputs[1]:
            return None
        for name in inputs:
            host = self.single(name)
            if host is not None and self.stages[host] == "conv":
                return name
        return None

    def _may_overwrite(self, node: Any, host: int, added: str, other: str) -> bool:
        """Return whether a convolution may add its result to a tensor in place: all others have read it before."""
        if self.graph.known(added) != self.graph.known(other):
            return False
        peer, source = self.maker.get(other), self._convolved[host]
        if source == other or (peer is not None and self.maker.get(source) == peer):
            return False
        tensors = [other] if peer is None else [name for name, maker in self.maker.items() if maker == peer]
        if self.graph.results & set(tensors):
            return False
        before = self._needs[added] | self._needs.get(other, 0)
        inside = set(self.kernels[peer].nodes) if peer is not None else set()
        return all(
            reader is node or before & self._bits[reader.output[0]] or set(self.graph.names(reader)) <= inside
            for name in tensors
            for reader in self.graph.readers(name)
        )

    def _compiled(self, inputs: list[str]) -> tuple[int, str] | None:
        """Return the kernel of element-wise operations that makes some of the tensors, made one of several."""
        sources = {self.maker[name] for name in inputs if name in self.maker}
        chosen: list[int] = []
        for name in inputs:
            host = self.maker.get(name)
            if host is None or host in chosen or self.stages[host] != "compiled":
                continue
            if not self._has_detour({*chosen, host}, sources):
                chosen.append(host)
        return (self.merge(chosen), "compiled") if chosen else None

    def _has_detour(self, joined: set[int], sources: set[int]) -> bool:
        """Return whether some kernel would have to run in the middle of the kernels ``joined`` and a reader of ``sources``."""
        waiting = list((sources | {feed for host in joined for feed in self.feeds.get(host, ())}) - joined)
        seen = set(waiting)
        while waiting:
            feeds = self.feeds.get(waiting.pop(), set())
            if feeds & joined:
                return True
            waiting.extend(feeds - seen)
            seen |= feeds
        return False

    def merge(self, hosts: list[int]) -> int:
        """See the base class."""
        first = super().merge(hosts)
        gone = set(hosts[1:])
        for host in gone:
            self.feeds.setdefault(first, set()).update(self.feeds.pop(host, ()))
        for host, feeds in self.feeds.items():
            if feeds & gone:
                self.feeds[host] = (feeds - gone) | {first}
        self.feeds.get(first, set()).discard(first)
        return first

    def is_free(self, node: Any, inputs: list[str]) -> bool:
        """See the base class; a transpose may move nothing, or be the layout that a convolution wants."""
        if super().is_free(node, inputs) or node.op_type != "Transpose":
            return super().is_free(node, inputs)
        shape, order = self.graph.known(inputs[0]), self.graph.order(node)
        moved = [side for side in order if shape[side] > 1]
        readers = self.graph.readers(node.output[0])
        wanted = order == [0, 3, 1, 2] and len(readers) == 1 and readers[0].op_type == "Conv"
        return moved == sorted(moved) or (wanted and self.graph.read_once(node.output[0]))

    def pieces_of(self, node: Any) -> tuple[str, ...]:
        """See the base class; the offset of a layer's normalisation is no kernel if it is zero."""
        kinds = super().pieces_of(node)
        if node.op_type != "LayerNormalization":
            return kinds
        offset = node.input[2] if len(node.input) > 2 else ""
        return kinds if offset and not self.graph.is_zero(offset) else kinds[:-1]

    def stage_of(self, node: Any, inputs: list[str]) -> str:
        """See the base class."""
        op = node.op_type
        if op == "Conv":
            self._convolved[self.upcoming] = inputs[0]
            return "conv"
        if self._convolution_of(node, inputs) is not None:
            return "simple"
        if op in ELEMENTWISE:
            return "" if op in self.fusion.alone else "compiled"
        if self.pieces_of(node)[-1:] == ("elementwise",):
            return "compiled"
        if op in ("Gemm", "MatMul"):
            return "features"
        if op == "ConvTranspose":
            return "deconv"
        return "simple" if op.startswith("Reduce") or op in _APPENDED else ""
