"""What an engine says of its layers (the engine inspector's JSON), joined with the times its profiler reports.

The JSON differs between versions: a layer is an object, or only a name; the type of a tensor stands in ``Format/Datatype``
(10) or ``DataType`` (11). The nodes of the ONNX file that a layer runs stand in ``Metadata`` as ``[ONNX Layer: NAME]``.
"""

from __future__ import annotations

import json
import re
import statistics
from typing import Any, Collection, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from hwnas_profilers.runtimes.base import Kernel

_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_TYPES = (
    (re.compile(r"bf16|bfloat16", re.IGNORECASE), "bf16"),
    (re.compile(r"int8", re.IGNORECASE), "int8"),
    (re.compile(r"half|fp16|float16", re.IGNORECASE), "fp16"),
    (re.compile(r"float|fp32", re.IGNORECASE), "fp32"),
)


class Layer(NamedTuple):
    """One layer of an engine: the precisions of its inputs, the tensors it makes, the ONNX nodes it runs."""

    op: str = ""
    types: Tuple[str, ...] = ()
    outputs: Tuple[str, ...] = ()
    nodes: Tuple[str, ...] = ()


def _precision(tensor: Mapping[str, Any]) -> str:
    text = " ".join(str(tensor[key]) for key in ("DataType", "Datatype", "Format/Datatype", "Format") if key in tensor)
    return next((name for pattern, name in _TYPES if pattern.search(text)), "")


def _named(tensors: Any) -> List[Mapping[str, Any]]:
    return [tensor for tensor in tensors or () if isinstance(tensor, dict) and "Name" in tensor]


def read_layers(text: str) -> Dict[str, Layer]:
    """Return the layers by name, in order; those that are only named have no more to say."""
    layers: Dict[str, Layer] = {}
    for entry in json.loads(text).get("Layers", []):
        if not isinstance(entry, dict):
            layers[str(entry)] = Layer()
            continue
        layers[str(entry.get("Name", ""))] = Layer(
            str(entry.get("LayerType", "")),
            tuple(kind for kind in map(_precision, _named(entry.get("Inputs"))) if kind),
            tuple(str(tensor["Name"]) for tensor in _named(entry.get("Outputs"))),
            tuple(dict.fromkeys(_NODE.findall(str(entry.get("Metadata", ""))))),
        )
    return layers


def computing_precisions(layers: Mapping[str, Layer], computing: Collection[str]) -> Dict[str, int]:
    """Return how many layers that run one of the nodes ``computing`` do so in which precision.

    A layer that runs several of them tells only what it is given, not what it computes in between, and is left out.
    """
    counts: Dict[str, int] = {}
    for layer in layers.values():
        if len(set(layer.nodes).intersection(computing)) == 1 and layer.types:
            kind = next((name for name in ("int8", "fp16", "bf16") if name in layer.types), "fp32")
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def join(runs: Sequence[Mapping[str, float]], layers: Mapping[str, Layer], tensors: Collection[str]) -> List[Kernel]:
    """Return the kernels in the order they were reported, median milliseconds over the runs.

    Args:
        runs: Layer name -> milliseconds, one mapping a run.
        layers: From :func:`read_layers`.
        tensors: Names of the ONNX file's tensors; others are the engine's own and say nothing.
    """
    kernels = []
    for name in dict.fromkeys(name for run in runs for name in run):
        layer = layers.get(name, Layer())
        ms = statistics.median(run.get(name, 0.0) for run in runs)
        outputs = tuple(tensor for tensor in layer.outputs if tensor in tensors)
        kernels.append(Kernel(name, layer.op or "Layer", ms, outputs, layer.nodes))
    return kernels
