"""Operations that files spell out in pieces, and the expressions that runtimes recognise them in."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from onnx import helper

from hwnas.kernels.graph import OnnxGraph
from hwnas.kernels.shapes import attribute

Tree = str | float | tuple[Any, ...]
"""An expression: ``"x"`` the tensor, ``"c"`` any constant number, a number, or an operation and its operands."""

_COMMUTES = ("Add", "Mul")
_ERF = ("Add", ("Erf", ("Div", "x", math.sqrt(2.0))), 1.0)
_ERF_BY_PRODUCT = ("Add", ("Erf", ("Mul", "x", math.sqrt(0.5))), 1.0)
_CUBIC = ("Add", "x", ("Mul", ("Pow", "x", 3.0), 0.044715))
_CUBIC_BY_PRODUCTS = ("Add", "x", ("Mul", ("Mul", ("Mul", "x", "x"), "x"), 0.044715))
_TANH, _TANH_BY_PRODUCTS = (
    ("Add", ("Tanh", ("Mul", cubic, math.sqrt(2 / math.pi))), 1.0) for cubic in (_CUBIC, _CUBIC_BY_PRODUCTS)
)
_RELU6 = ("Clip", ("Add", "x", 3.0), 0.0, 6.0)

SWISH: dict[str, tuple[Tree, ...]] = {
    "Swish": (("Mul", "x", ("Sigmoid", "x")), ("Mul", "x", ("Sigmoid", ("Mul", "x", "c"))))
}
GELU: dict[str, tuple[Tree, ...]] = {
    "Gelu": tuple(
        tree
        for erf in (_ERF, _ERF_BY_PRODUCT)
        for tree in (("Mul", ("Mul", "x", erf), 0.5), ("Mul", ("Mul", "x", 0.5), erf))
    )
}
ONNXRUNTIME_PIECES: dict[str, tuple[Tree, ...]] = {
    **SWISH,
    **GELU,
    "FastGelu": (("Mul", ("Mul", "x", 0.5), _TANH),),
    "HardSwish": (("Mul", "x", ("HardSigmoid", "x")),),
}
OPENVINO_PIECES: dict[str, tuple[Tree, ...]] = {
    **SWISH,
    "Gelu": (
        *GELU["Gelu"],
        ("Mul", "x", ("Mul", _ERF, 0.5)),
        ("Mul", "x", ("Mul", _ERF_BY_PRODUCT, 0.5)),
        *(
            tree
            for tanh in (_TANH, _TANH_BY_PRODUCTS)
            for tree in (("Mul", ("Mul", "x", 0.5), tanh), ("Mul", "x", ("Mul", tanh, 0.5)))
        ),
    ),
    "Mish": (("Mul", "x", ("Tanh", ("Softplus", "x"))),),
    "HardSwish": (("Mul", "x", ("Div", _RELU6, 6.0)), ("Div", ("Mul", "x", _RELU6), 6.0)),
    "HSigmoid": (("Div", _RELU6, 6.0),),
}
"""Operations and the expressions a runtime recognises as them."""


def _match(graph: OnnxGraph, name: str, tree: Tree, found: dict[str, str], inner: bool = True) -> list[Any] | None:
    """Return the nodes of an expression that makes a tensor, or ``None``; ``found["x"]`` is the tensor it reads."""
    if tree == "x":
        return [] if found.setdefault("x", name) == name and name not in graph.constants else None
    if isinstance(tree, str):
        return [] if graph.scalar(name) is not None else None
    if isinstance(tree, float):
        value = graph.scalar(name)
        return [] if value is not None and math.isclose(value, tree, rel_tol=1e-3) else None
    node = graph.maker(name)
    if node is None or node.op_type != tree[0] or len(node.input) != len(tree) - 1:
        return None
    if inner and not graph.read_once(name):
        return None
    if node.op_type == "HardSigmoid" and not math.isclose(attribute(node, "alpha", 0.2), 1 / 6, rel_tol=1e-3):
        return None
    for operands in [node.input, node.input[::-1]] if tree[0] in _COMMUTES else [node.input]:
        trial, nodes = dict(found), [node]
        for operand, part in zip(operands, tree[1:], strict=True):
            matched = _match(graph, operand, part, trial)
            if matched is None:
                break
            nodes = [*matched, *nodes]
        else:
            found.update(trial)
            return nodes
    return None


def join_pieces(graph: OnnxGraph, pieces: dict[str, tuple[Tree, ...]], inside: Collection[str] = ()) -> None:
    """Put one node in the place of an operation that the file spells out.

    Args:
        graph: The graph.
        pieces: Operation -> the expressions that it is recognised in.
        inside: Operations that are recognised only where they make no result of the graph.
    """
    for op, trees in pieces.items():
        for tree in trees:
            for node in list(graph.nodes):
                if op in inside and graph.results & set(node.output):
                    continue
                found: dict[str, str] = {}
                nodes = _match(graph, node.output[0], tree, found, inner=False)
                if nodes is None:
                    continue
                joined = helper.make_node(op, [found["x"]], list(node.output), name=node.name)
                names = [name for part in nodes for name in graph.names(part)]
                graph.parts[node.output[0]] = tuple(dict.fromkeys(names))
                gone = {id(part) for part in nodes} - {id(node)}
                graph.replace([joined if part is node else part for part in graph.nodes if id(part) not in gone])
