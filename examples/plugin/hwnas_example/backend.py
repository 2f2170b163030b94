"""The host side: makes the files that the runtime reads, ``model.json`` and ``model.npz``.

Both ways lead through ONNX, for which hwnas has what is needed: a layer graph becomes an ONNX graph in milliseconds, and a
torch module becomes one that was compared with torch. What is left is to write its nodes and weights as plain data.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx

from hwnas.backends.base import EXPORT_RECORD, Backend, Quantising
from hwnas.backends.checks import FloatArray
from hwnas.backends.onnx_export import export_onnx
from hwnas.backends.onnx_files import input_shape, read_onnx
from hwnas.backends.onnx_graph import build_fp32
from hwnas.backends.synthetic import Weights
from hwnas.devices.models import ModelFiles
from hwnas.errors import ModelFileError
from hwnas.files import write_json
from hwnas.spaces.graph import LayerGraph
from hwnas_example.numpy_reference import OPERATIONS, Network

if TYPE_CHECKING:
    import torch


def _node(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node as plain data, without attributes at their defaults: the runtime's functions have the same ones."""
    if node.op_type not in OPERATIONS or len(node.output) != 1:
        known = ", ".join(OPERATIONS)
        raise ModelFileError(f"numpy_reference cannot run {node.op_type} ({node.name}); it runs {known}.")
    known_attributes = onnx.defs.get_schema(node.op_type).attributes
    defaults = {name: attribute.default_value for name, attribute in known_attributes.items()}
    said = [entry for entry in node.attribute if entry != defaults.get(entry.name)]
    return {
        "name": node.name,
        "op": node.op_type,
        "inputs": list(node.input),
        "output": node.output[0],
        "attributes": {entry.name: onnx.helper.get_attribute_value(entry) for entry in said},
    }


def write_network(model: onnx.ModelProto, folder: Path) -> ModelFiles:
    """Write the nodes of an ONNX model as JSON and its weights as arrays; nothing is pickled.

    Raises:
        ModelFileError: It holds an operation that the runtime has not, or a shape is open.
    """
    graph = model.graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants = [node for node in graph.node if node.op_type == "Constant"]
    weights |= {node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t) for node in constants}
    name, shape = input_shape(model)
    (output,) = graph.output
    sizes = [size.dim_value for size in output.type.tensor_type.shape.dim]
    if 0 in sizes:
        raise ModelFileError(f"output {output.name!r} of the ONNX graph has an open shape; export it with fixed sizes.")
    described = {
        "input": {"name": name, "shape": shape},
        "output": {"name": output.name, "shape": sizes},
        "weights": list(weights),
        "nodes": [_node(node) for node in graph.node if node.op_type != "Constant"],
    }
    files = ModelFiles(folder / "model.json", (folder / "model.npz",))
    write_json(files.main, described)
    np.savez(files.extra[0], *weights.values())
    return files


def run_file(path: Path, batches: list[FloatArray]) -> list[FloatArray]:
    """Run an ONNX file as the device will: through the same files and the same code."""
    with tempfile.TemporaryDirectory(prefix="numpy-reference-") as folder:
        network = Network(write_network(read_onnx(path), Path(folder)).main)
    return [network(batch) for batch in batches]


class NumpyReferenceBackend(Backend):
    """Makes ``model.json`` and ``model.npz``."""

    name: ClassVar[str] = "numpy_reference"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    packages: ClassVar[tuple[str, ...]] = ("onnx",)
    install: ClassVar[str] = "pip install onnx"

    def _build(
        self, graph: LayerGraph, precision: str, folder: Path, batch: int, seed: int, weights: Weights | None
    ) -> ModelFiles:
        return write_network(build_fp32(graph, batch=batch, seed=seed, weights=weights), folder)

    def _export(
        self,
        module: torch.nn.Module,
        example: torch.Tensor,
        precision: str,
        folder: Path,
        quantising: Quantising | None,
        batch: int,
    ) -> ModelFiles:
        with tempfile.TemporaryDirectory(prefix="numpy-reference-") as name:
            path = Path(name) / "model.onnx"
            record = export_onnx(module, example, path, run_file, batch=batch)
            files = write_network(read_onnx(path), folder)
        write_json(folder / EXPORT_RECORD, record.as_dict())
        return files
