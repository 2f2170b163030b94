"""Reads nodes and tensor names of an ONNX file with nothing but the standard library.

A device has the runtime, not the ``onnx`` package. Only the protobuf fields needed here are decoded (onnx.proto3:
ModelProto.graph = 7; GraphProto.node = 1, .initializer = 5; NodeProto input 1, output 2, name 3, op_type 4, domain 7;
TensorProto.data_type 2, .name 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Tuple, Union

from hwnas_profilers.protocol import Failure

FLOAT16 = 10
BFLOAT16 = 16


@dataclass(frozen=True)
class Node:
    """One node of an ONNX graph."""

    name: str
    op: str
    domain: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]


@dataclass(frozen=True)
class OnnxGraph:
    """Nodes in file order, and initializer name -> ONNX data type."""

    nodes: Tuple[Node, ...]
    initializers: Dict[str, int]

    @property
    def ops(self) -> Tuple[str, ...]:
        """Operation types in file order."""
        return tuple(node.op for node in self.nodes)


def _varint(data: memoryview, at: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of the file is longer than 64 bits")


def _fields(data: memoryview) -> Iterator[Tuple[int, Union[int, memoryview]]]:
    """Yield (field number, integer or bytes) of one protobuf message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field kind {kind} is not known")
        if at + size > len(data):
            raise ValueError("a field reaches beyond the end of the file")
        yield key >> 3, data[at : at + size]
        at += size


def _text(value: Union[int, memoryview]) -> str:
    if isinstance(value, int):
        raise ValueError("a number stands where a name should")
    return bytes(value).decode("utf-8")


def _message(value: Union[int, memoryview]) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def _node(data: memoryview) -> Node:
    inputs: List[str] = []
    outputs: List[str] = []
    texts = {3: "", 4: "", 7: ""}
    for number, value in _fields(data):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number in texts:
            texts[number] = _text(value)
    return Node(texts[3], texts[4], texts[7], tuple(inputs), tuple(outputs))


def _initializer(data: memoryview) -> Tuple[str, int]:
    name, kind = "", 0
    for number, value in _fields(data):
        if number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = _text(value)
    return name, kind


def read_graph(path: Path) -> OnnxGraph:
    """Read the main graph of an ONNX file.

    Raises:
        Failure: ``load_failed``, when it is not an ONNX file.
    """
    nodes: List[Node] = []
    initializers: Dict[str, int] = {}
    try:
        for number, graph in _fields(memoryview(path.read_bytes())):
            if number != 7:
                continue
            for field, value in _fields(_message(graph)):
                if field == 1:
                    nodes.append(_node(_message(value)))
                elif field == 5:
                    name, kind = _initializer(_message(value))
                    initializers[name] = kind
    except (ValueError, IndexError, OSError) as error:
        raise Failure("load_failed", f"{path.name} is not a readable ONNX file ({error})") from error
    if not nodes:
        raise Failure("load_failed", f"{path.name} holds no ONNX graph")
    return OnnxGraph(tuple(nodes), initializers)
