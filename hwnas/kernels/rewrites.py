"""What runtimes rewrite before they fuse: equal nodes, paddings, scales, nodes that do nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hwnas.kernels.graph import OnnxGraph
from hwnas.kernels.shapes import attribute

_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
"""Operation -> number with which it changes nothing."""


def _reads_only(graph: OnnxGraph, name: str, ops: Sequence[str]) -> bool:
    readers = graph.readers(name)
    return name not in graph.results and bool(readers) and all(node.op_type in ops for node in readers)


def _is_border(graph: OnnxGraph, node: Any) -> bool:
    """Return whether a ``Pad`` puts zeros around the pixels, or nothing at all."""
    pads = attribute(node, "pads", None)
    if pads is None:
        value = graph.value(node.input[1])
        pads = None if value is None else value.reshape(-1).tolist()
    mode = attribute(node, "mode", b"constant")
    filled = graph.scalar(node.input[2]) if len(node.input) > 2 and node.input[2] else attribute(node, "value", 0.0)
    if pads is None or mode != b"constant" or filled != 0.0 or (len(node.input) > 3 and node.input[3]):
        return False
    half = len(pads) // 2
    return min(pads) >= 0 and not any(pads[:2]) and not any(pads[half : half + 2])


def _drop(graph: OnnxGraph, node: Any) -> None:
    graph.replace([part for part in graph.nodes if part is not node])
    graph.rename({node.output[0]: node.input[0]})


def drop_paddings(graph: OnnxGraph, takers: Sequence[str]) -> None:
    """Leave out paddings with zeros that the operations ``takers`` behind them do by themselves."""
    for node in [node for node in graph.nodes if node.op_type == "Pad"]:
        if _is_border(graph, node) and _reads_only(graph, node.output[0], takers):
            _drop(graph, node)


def fold_scales(graph: OnnxGraph) -> None:
    """Leave out products with constants whose one reader is a convolution: they become part of its weights."""
    for node in [node for node in graph.nodes if node.op_type in ("Mul", "Div")]:
        operand, inputs = graph.operand(node), graph.activations(node)
        if operand is None or not graph.read_once(node.output[0]) or node.input[0] in graph.constants:
            continue
        reader = graph.readers(node.output[0])[0]
        weighted = reader.op_type in ("Conv", "ConvTranspose") and reader.input[1] in graph.constants
        if weighted and math.prod(operand) in (1, graph.known(inputs[0])[1]):
            _drop(graph, node)


def join_concats(graph: OnnxGraph) -> None:
    """Join concatenations of which one alone reads another."""
    for node in [node for node in graph.nodes if node.op_type == "Concat"]:
        for name in list(node.input):
            inner = graph.maker(name)
            if inner is None or inner.op_type != "Concat" or not graph.read_once(name):
                continue
            if attribute(inner, "axis", 0) != attribute(node, "axis", 0):
                continue
            index = list(node.input).index(name)
            node.input[:] = [*node.input[:index], *inner.input, *node.input[index + 1 :]]
            graph.parts[node.output[0]] = (*graph.names(inner), *graph.names(node))
            graph.replace([part for part in graph.nodes if part is not inner])


def drop_identities(graph: OnnxGraph, single: Sequence[str] = ()) -> None:
    """Leave out what passes a tensor on, and pairs of transposes of which the second undoes the first.

    Args:
        graph: The graph.
        single: Operations that pass a tensor on if it is their only input.
    """
    for node in list(graph.nodes):
        if node.output[0] in graph.results:
            continue
        if node.op_type in ("Identity", "Dropout") or (node.op_type in single and len(node.input) == 1):
            _drop(graph, node)
            continue
        kept = _left_alone(graph, node)
        if kept is not None:
            graph.replace([part for part in graph.nodes if part is not node])
            graph.rename({node.output[0]: kept})
            continue
        before = graph.maker(node.input[0]) if node.op_type == "Transpose" else None
        if before is not None and before.op_type == "Transpose":
            first = graph.order(before)
            if [first[side] for side in graph.order(node)] == sorted(first):
                graph.replace([part for part in graph.nodes if part is not node])
                graph.rename({node.output[0]: before.input[0]})
                if not graph.is_read(before.output[0]):
                    graph.replace([part for part in graph.nodes if part is not before])


def _left_alone(graph: OnnxGraph, node: Any) -> str | None:
    """Return the tensor to which a node adds nothing, or which it multiplies by one."""
    neutral = _NEUTRAL.get(node.op_type)
    inputs = graph.activations(node)
    if neutral is None or len(node.input) != 2 or len(inputs) != 1:
        return None
    place = list(node.input).index(inputs[0])
    if graph.scalar(node.input[1 - place]) != neutral or (place == 1 and node.op_type in ("Sub", "Div")):
        return None
    same = graph.known(inputs[0]) == graph.known(node.output[0])
    return inputs[0] if same else None


def drop_dead(graph: OnnxGraph) -> None:
    """Leave out nodes whose results nobody reads."""
    for node in reversed(list(graph.nodes)):
        if not any(graph.is_read(name) for name in node.output if name):
            graph.replace([part for part in graph.nodes if part is not node])


def join_equal(graph: OnnxGraph) -> None:
    """Compute what two nodes compute alike once."""
    seen: dict[tuple[Any, ...], Any] = {}
    for node in list(graph.nodes):
        settings = tuple(sorted(entry.SerializeToString(deterministic=True) for entry in node.attribute))
        key = (node.op_type, tuple(node.input), len(node.output), settings)
        first = seen.setdefault(key, node)
        if first is node or node.op_type.startswith("Random") or graph.results & set(node.output):
            continue
        graph.parts[first.output[0]] = (*graph.names(first), *graph.names(node))
        graph.replace([part for part in graph.nodes if part is not node])
        graph.rename(dict(zip(node.output, first.output, strict=True)))
