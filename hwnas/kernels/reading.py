"""Kernels of an ONNX file, without a session: what a runtime will run as one unit, with every shape.

What a runtime rewrites and fuses is a property of the runtime (``fusion.py``, ``onnxruntime_partition.py``,
``openvino_partition.py``).
"""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto

from hwnas.errors import ConfigError, ModelFileError
from hwnas.kernels.batch import Kernel
from hwnas.kernels.fusion import FUSIONS
from hwnas.kernels.graph import OnnxGraph
from hwnas.kernels.onnxruntime_partition import OnnxRuntimePartition
from hwnas.kernels.openvino_partition import OpenVinoPartition
from hwnas.kernels.partition import Partition
from hwnas.kernels.pieces import join_pieces
from hwnas.kernels.rewrites import (
    drop_dead,
    drop_identities,
    drop_paddings,
    fold_scales,
    join_concats,
    join_equal,
)
from hwnas.kernels.transposes import sink_transposes

_PARTITIONS: dict[str, type[Partition]] = {"onnxruntime": OnnxRuntimePartition, "openvino": OpenVinoPartition}


_OTHER_FLOATS = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16", TensorProto.DOUBLE: "float64"}
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "Integer")


def _require_plain(graph: OnnxGraph, batch: int) -> None:
    """Raise unless an ONNX file computes in float32, for this many images."""
    path = graph.path
    quantised = [node.op_type for node in graph.nodes if any(word in node.op_type for word in _QUANTISED)]
    if quantised:
        raise ModelFileError(
            f"{path} is quantised ({quantised[0]}): kernels are told of fp32 files only. Give the file it was quantised from, "
            "or measure it: hwnas measure."
        )
    other = [name for kind, name in _OTHER_FLOATS.items() if kind in graph.kinds]
    if other:
        raise ModelFileError(
            f"{path} computes in {other[0]}: kernels are told of fp32 files only. Measure it: hwnas measure."
        )
    for name in graph.inputs:
        shape = graph.known(name)
        if len(shape) == 4 and shape[0] != batch:
            raise ModelFileError(
                f"{path} takes {shape[0]} images at once, the target {batch}. Write the target's batch as -b{shape[0]}, or export "
                f"the file for {batch}."
            )


def kernels_of_onnx(path: Path, runtime: str, batch: int | None = None) -> list[Kernel]:
    """Return the kernels that a runtime will run for an ONNX file, in an order in which they can run.

    Args:
        path: The file; of weights in other files only small ones are read.
        runtime: One of :data:`FUSIONS`.
        batch: Images per inference that it must be for; then it must compute in float32, too.

    Raises:
        ConfigError: What that runtime fuses is not known.
        ModelFileError: The file cannot be read, shapes are not fixed, or the work of an operation cannot be told; or, where
            ``batch`` is given, it is quantised, of another element type or for another batch.
    """
    if runtime not in FUSIONS:
        raise ConfigError(f"kernels of {runtime} cannot be told from a file yet; known: {', '.join(FUSIONS)}.")
    graph, fusion = OnnxGraph(Path(path)), FUSIONS[runtime]
    if batch is not None:
        _require_plain(graph, batch)
    if fusion.drops_dead:
        drop_dead(graph)
    drop_identities(graph, fusion.passes_on)
    join_equal(graph)
    drop_paddings(graph, fusion.pads)
    join_pieces(graph, fusion.pieces, fusion.inside)
    if fusion.folds_ahead:
        fold_scales(graph)
        join_concats(graph)
    if fusion.sinks:
        sink_transposes(graph, fusion.sinks)
    found = _PARTITIONS[runtime](graph, fusion).read()
    if not found:
        raise ModelFileError(f"{path} computes nothing.")
    return found
