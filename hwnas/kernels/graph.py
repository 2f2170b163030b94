"""An ONNX file as a graph with every shape known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from hwnas.errors import ModelFileError
from hwnas.kernels.shapes import SMALL, attribute, load_plain, refuse_unreadable, with_shapes

Shape = tuple[int, ...]

_INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


def name_of(node: Any) -> str:
    """Return what a node is called: its name, else its first output."""
    return str(node.name or node.output[0])


class OnnxGraph:
    """Nodes in order, shapes, constants and readers of an ONNX file.

    Args:
        path: The file; of weights in other files only small ones are read.

    Attributes:
        nodes: In an order in which they can run.
        shapes: Tensor -> shape, -1 for a side that is not fixed.
        constants: Tensors that do not depend on an input.
        integers: Tensors of integers or truth values that are no larger than a shape may be.
        results: The graph's outputs.
        parts: First output of a node -> names of the file's nodes it stands for, if not its own alone.

    Raises:
        ModelFileError: It cannot be read, its shapes are not fixed, or it holds operations whose work cannot be told.
    """

    def __init__(self, path: Path) -> None:
        try:
            model = with_shapes(load_plain(path))
            refuse_unreadable(model, path)
        except ModelFileError:
            raise
        except Exception as error:  # the parser and the inference raise their own types and plain ones
            raise ModelFileError(
                f"{path}: its shapes cannot be inferred ({_first_line(error)}). Export it again."
            ) from error
        graph = model.graph
        self.path = path
        self.nodes: list[Any] = list(graph.node)
        self.results = {value.name for value in graph.output}
        self.shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self.constants = set(self.shapes)
        self.integers: set[str] = set()
        self.parts: dict[str, tuple[str, ...]] = {}
        self.kinds = {tensor.data_type for tensor in graph.initializer} | {
            value.type.tensor_type.elem_type for value in graph.input
        }
        """Element types of inputs and constants."""
        self.inputs = [value.name for value in graph.input if value.name not in self.constants]
        self._fixed = {tensor.name: tensor for tensor in graph.initializer if not tensor.external_data}
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            if value.name not in self.constants and kind.HasField("shape"):
                self.shapes[value.name] = tuple(
                    dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim
                )
                if kind.elem_type in _INTEGERS and math.prod(self.shapes[value.name]) <= SMALL:
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
                if node.op_type == "Identity" and node.input[0] in self._fixed:
                    self._fixed[node.output[0]] = self._fixed[node.input[0]]
        self.nodes = [node for node in self.nodes if not all(name in self.constants for name in node.output)]
        self._index()

    def _index(self) -> None:
        self._readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._makers = {name: node for node in self.nodes for name in node.output if name}

    def replace(self, nodes: Sequence[Any]) -> None:
        """Take other nodes in place of those there are."""
        self.nodes = list(nodes)
        self._index()

    def rename(self, renamed: dict[str, str]) -> None:
        """Let every reader of a tensor read another one."""
        for node in self.nodes:
            for index, name in enumerate(node.input):
                node.input[index] = renamed.get(name, name)
        self._index()

    def maker(self, name: str) -> Any | None:
        """Return the node that makes a tensor, if there is one."""
        return self._makers.get(name)

    def names(self, node: Any) -> tuple[str, ...]:
        """Return the names of the file's nodes that a node stands for."""
        return self.parts.get(node.output[0], (name_of(node),))

    def value(self, name: str) -> NDArray[Any] | None:
        """Return the value of a small constant."""
        tensor = self._fixed.get(name)
        return numpy_helper.to_array(tensor) if tensor is not None and math.prod(tensor.dims) <= SMALL else None

    def is_zero(self, name: str) -> bool:
        """Return whether a constant is known to be zero throughout."""
        return name in self._fixed and not np.any(numpy_helper.to_array(self._fixed[name]))

    def scalar(self, name: str) -> float | None:
        """Return the value of a constant of one number."""
        value = self.value(name)
        return None if value is None or value.size != 1 else float(np.asarray(value).reshape(-1)[0])

    def shape(self, name: str) -> Shape:
        """Return the shape of a tensor, -1 for a side that is not fixed."""
        if name not in self.shapes:
            raise ModelFileError(f"{self.path}: the shape of tensor {name!r} is not known. Export the model again.")
        return self.shapes[name]

    def known(self, name: str) -> Shape:
        """Return the shape of a tensor whose sides are all fixed."""
        shape = self.shape(name)
        if any(side < 0 for side in shape):
            raise ModelFileError(
                f"{self.path}: tensor {name!r} has the shape {_text(shape)}: a latency belongs to fixed shapes."
            )
        return shape

    def elements(self, name: str) -> float:
        """Return the elements of a tensor."""
        return float(math.prod(self.known(name)))

    def activations(self, node: Any) -> list[str]:
        """Return the inputs of a node that are not constant."""
        return [name for name in node.input if name and name not in self.constants]

    def readers(self, name: str) -> list[Any]:
        """Return the nodes that read a tensor, one as often as it does."""
        return self._readers.get(name, [])

    def read_once(self, name: str) -> bool:
        """Return whether one node reads a tensor and nobody else gets it."""
        return len(self._readers.get(name, ())) == 1 and name not in self.results

    def order(self, node: Any) -> list[int]:
        """Return the sides of its input that a ``Transpose`` puts first, second and so on."""
        return list(attribute(node, "perm", range(len(self.known(node.input[0])))[::-1]))

    def is_read(self, name: str) -> bool:
        """Return whether a node reads a tensor, or it is a result."""
        return name in self._readers or name in self.results

    def operand(self, node: Any) -> Shape | None:
        """Return the shape of the constant that a node of two inputs combines with a tensor."""
        fixed = [name for name in node.input if name in self.constants]
        return self.shapes.get(fixed[0]) if len(node.input) == 2 and len(fixed) == 1 else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _text(shape: Shape) -> str:
    return "[" + ", ".join("?" if side < 0 else str(side) for side in shape) + "]"
