"""Transposes that a runtime moves towards others, so that they cancel."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from onnx import helper

from hwnas.kernels.graph import OnnxGraph
from hwnas.kernels.rewrites import drop_identities


class _Sunk:
    """Transposes that wait until something has to read their results."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self.waiting: dict[str, tuple[list[int], str, Any]] = {}
        """Tensor -> permutation, the tensor it is a transpose of, and the node that says so."""
        self.settled: set[str] = set()

    def transpose(self, node: Any) -> None:
        """Let a transpose wait, as one with the one before it; two that cancel do nothing."""
        source, order = node.input[0], self.graph.order(node)
        if source in self.waiting:
            first, source, _ = self.waiting[source]
            order = [first[side] for side in order]
        if order == sorted(order):
            self.nodes.append(helper.make_node("Identity", [source], list(node.output), name=node.name))
        else:
            self.waiting[node.output[0]] = (order, source, node)

    def passes(self, node: Any) -> bool:
        """Return whether a transpose can wait until behind a node."""
        inputs = self.graph.activations(node)
        orders = [self.waiting[name][0] for name in inputs if name in self.waiting]
        same = len(orders) == len(inputs) > 0 and all(order == orders[0] for order in orders)
        return same and all(len(self.graph.known(name)) == len(orders[0]) for name in (*inputs, *node.output))

    def move(self, node: Any) -> None:
        """Let a node compute from what is not transposed yet."""
        order = next(self.waiting[name][0] for name in node.input if name in self.waiting)
        made, before = node.output[0], f"{node.output[0]}/before"
        inputs = [self.waiting[name][1] if name in self.waiting else name for name in node.input]
        moved = helper.make_node(node.op_type, inputs, [before], name=node.name)
        moved.attribute.extend(node.attribute)
        shape = self.graph.known(made)
        self.graph.shapes[before] = tuple(shape[order.index(side)] for side in range(len(order)))
        self.graph.parts[before] = self.graph.names(node)
        self.nodes.append(moved)
        self.waiting[made] = (order, before, node)

    def settle(self, name: str) -> None:
        """Transpose a tensor where it is first read."""
        if name in self.settled:
            return
        self.settled.add(name)
        order, source, node = self.waiting[name]
        settled = helper.make_node("Transpose", [source], [name], name=node.name, perm=order)
        untouched = node.op_type == "Transpose" and node.input[0] == source
        self.graph.parts[name] = self.graph.names(node) if untouched else ()
        self.nodes.append(settled)


def sink_transposes(graph: OnnxGraph, through: Collection[str]) -> None:
    """Move transposes behind element-wise operations, where they may meet others and cancel."""
    sunk = _Sunk(graph)
    for node in graph.nodes:
        kept = graph.results & set(node.output)
        if node.op_type == "Transpose" and not kept:
            sunk.transpose(node)
            continue
        if node.op_type in through and not kept and sunk.passes(node):
            sunk.move(node)
            continue
        for name in dict.fromkeys(node.input):
            if name in sunk.waiting:
                sunk.settle(name)
        sunk.nodes.append(node)
    graph.replace(sunk.nodes)
    drop_identities(graph)
