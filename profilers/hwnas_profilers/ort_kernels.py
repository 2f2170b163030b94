"""Kernels of ONNX Runtime: its own profile joined with the optimised graph it wrote and the file it was given.

Node names and tensor names survive optimisation well enough to say which original nodes a kernel replaces: a kernel's
output is an original tensor, or its name is one with a suffix of a layout pass (``_nchwc``, ``_token_3``), or a pure
layout kernel after it produces one.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set, Tuple

from hwnas_profilers.onnx_graph import Node, OnnxGraph
from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Kernel

LAYOUT_OPS = ("ReorderOutput", "ReorderInput", "Transpose")
_FEEDING_OPS = ("DequantizeLinear", "Cast", "Constant")
_SUFFIX = re.compile(r"(_token_\d+|_nchwc|_nhwc|_out0|_bn|/QuickGeluFusion/)$")


def read_profile(path: Path) -> List[Tuple[str, str, float]]:
    """Return (node name, operation, median ms) of every node in order of first execution.

    Raises:
        Failure: ``load_failed``, when the profile holds no nodes.
    """
    times: Dict[Tuple[str, str, str], List[float]] = {}
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        details = event.get("args", {})
        key = (event["name"][: -len("_kernel_time")], details.get("op_name", ""), str(details.get("node_index", "")))
        times.setdefault(key, []).append(event["dur"] / 1e3)
    if not times:
        raise Failure("load_failed", "ONNX Runtime's profile holds no nodes")
    return [(name, op, statistics.median(values)) for (name, op, _), values in times.items()]


def _stems(name: str) -> List[str]:
    """Return the name and what is left of it after taking layout suffixes away one by one."""
    stems = [name]
    while True:
        shorter = _SUFFIX.sub("", stems[-1])
        if shorter == stems[-1]:
            return stems
        stems.append(shorter)


class _Original:
    """The graph as it was given: who produces and who reads a tensor."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.nodes = graph.nodes
        self.producer = {tensor: node for node in graph.nodes for tensor in node.outputs if tensor}
        self.named = {node.name: node for node in graph.nodes if node.name}
        self.position = {tensor: index for index, node in enumerate(graph.nodes) for tensor in node.outputs}
        self.readers: Dict[str, List[Optional[Node]]] = {}
        for node in graph.nodes:
            for tensor in node.inputs:
                self.readers.setdefault(tensor, []).append(node)

    def tensor_of(self, name: str) -> Optional[str]:
        for stem in _stems(name):
            if stem in self.producer:
                return stem
        return None

    def tensor_of_node(self, name: str) -> Optional[str]:
        for stem in _stems(name):
            if stem in self.producer:
                return stem
            if stem in self.named:
                return self.named[stem].outputs[0]
        return None

    def only_reader_of(self, name: str) -> Optional[str]:
        """Return what the one original node that reads ``name`` produces: a kernel inlined from it reads it too."""
        for stem in _stems(name):
            readers = self.readers.get(stem, [])
            if len(readers) == 1 and readers[0] is not None:
                return readers[0].outputs[0]
        return None


def _resolve_outputs(nodes: Sequence[Node], original: _Original) -> List[Tuple[str, ...]]:
    """Return, per optimised node, the original tensors it produces."""
    readers: Dict[str, List[int]] = {}
    for index, node in enumerate(nodes):
        for tensor in node.inputs:
            readers.setdefault(tensor, []).append(index)
    resolved: List[Tuple[str, ...]] = []
    for node in nodes:
        found = [original.tensor_of(tensor) for tensor in node.outputs if tensor]
        known = [tensor for tensor in found if tensor is not None]
        if not known and node.op not in LAYOUT_OPS:
            named = original.tensor_of_node(node.name)
            known = [named] if named is not None else []
        if not known and len(node.outputs) == 1:
            after = [nodes[index] for index in readers.get(node.outputs[0], [])]
            if len(after) == 1 and after[0].op in LAYOUT_OPS:
                known = [tensor for tensor in map(original.tensor_of, after[0].outputs) if tensor is not None]
        if not known and node.op not in LAYOUT_OPS:
            known = [tensor for tensor in map(original.only_reader_of, node.inputs) if tensor is not None][:1]
        resolved.append(tuple(known))
    return resolved


def _trace(kernel: Node, tensors: Sequence[str], stops: Set[str], original: _Original, claimed: Set[int]) -> List[Node]:
    """Return the unclaimed original nodes behind ``tensors``, up to the tensors of other kernels.

    A kernel of the same operation as the node it is named after took nothing in before it, except the dequantising of
    its inputs: what vanished there was fused into the kernel before.
    """
    found: List[Node] = []
    waiting = list(tensors)
    while waiting:
        node = original.producer.get(waiting.pop())
        if node is None or id(node) in claimed:
            continue
        plain = node.op == kernel.op and node.outputs[0] in tensors
        claimed.add(id(node))
        found.append(node)
        for tensor in node.inputs:
            before = original.producer.get(tensor)
            if tensor not in stops and before is not None and (not plain or before.op in _FEEDING_OPS):
                waiting.append(tensor)
    return found


def _give_away_rest(fused: List[List[Node]], original: _Original, claimed: Set[int]) -> None:
    """Give nodes that vanished without a trace to the last kernel among those of the nodes before them."""
    owner = {id(node): index for index, nodes in enumerate(fused) for node in nodes}
    for node in original.nodes:
        if id(node) in claimed:
            continue
        before = [original.producer.get(tensor) for tensor in node.inputs]
        owners = [owner[id(other)] for other in before if other is not None and id(other) in owner]
        if owners:
            owner[id(node)] = max(owners)
            fused[max(owners)].append(node)
            claimed.add(id(node))


def _produced(kernel_tensors: Sequence[str], fused: Sequence[Node], original: _Original) -> Tuple[str, ...]:
    """Return the tensors of the fused nodes: first those that others read, then the rest, each from last to first."""
    inside = {id(node) for node in fused}
    tensors = [tensor for node in fused for tensor in node.outputs if tensor] or list(kernel_tensors)
    ordered = sorted(set(tensors), key=lambda tensor: original.position.get(tensor, 0), reverse=True)
    outer = [
        tensor for tensor in ordered if not all(id(node) in inside for node in original.readers.get(tensor, [None]))
    ]
    return tuple(outer + [tensor for tensor in ordered if tensor not in outer])


def _match_times(nodes: Sequence[Node], profile: Sequence[Tuple[str, str, float]]) -> List[Optional[int]]:
    """Return, per profiled node, its index in the optimised graph: by order where they agree, else by name."""
    if len(nodes) == len(profile) and all(node.op == op for node, (_, op, _) in zip(nodes, profile)):
        return list(range(len(nodes)))
    by_name = {node.name: index for index, node in enumerate(nodes) if node.name}
    return [by_name.get(name) for name, _, _ in profile]


def join(profile: Sequence[Tuple[str, str, float]], optimised: OnnxGraph, given: OnnxGraph) -> List[Kernel]:
    """Return the kernels in execution order, with original tensor names and the names of the fused nodes.

    Args:
        profile: From :func:`read_profile`.
        optimised: The graph ONNX Runtime wrote.
        given: The graph it was given.
    """
    original = _Original(given)
    outputs = _resolve_outputs(optimised.nodes, original)
    stops = {tensor for tensors in outputs for tensor in tensors}
    claimed: Set[int] = set()
    fused = [
        [] if node.op in LAYOUT_OPS and node.op != "Transpose" else _trace(node, tensors, stops, original, claimed)
        for node, tensors in zip(optimised.nodes, outputs)
    ]
    _give_away_rest(fused, original, claimed)
    kernels = []
    for (name, op, ms), index in zip(profile, _match_times(optimised.nodes, profile)):
        if index is None:
            kernels.append(Kernel(name, op, ms))
            continue
        names = tuple(sorted(node.name or node.outputs[0] for node in fused[index]))
        kernels.append(Kernel(name, op, ms, _produced(outputs[index], fused[index], original), names))
    return kernels
