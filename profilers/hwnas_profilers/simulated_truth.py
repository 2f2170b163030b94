"""What a simulated device takes for a network: the truth that a measurement of it can be held against.

The device fuses the layers of a description into kernels by itself, as a runtime does, and each kernel takes its launch
and the longer of computing and moving data (Williams et al. 2009, the roofline). Computing goes in whole vectors of output
channels, a staircase; moving goes at the cache's pace up to the cache's size and at the memory's beyond it, a knee.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

OVERHEAD_MS = 0.02
"""Of every inference, milliseconds."""

LAUNCH_MS = 0.001
"""Of every kernel, milliseconds."""

MACS_PER_MS = {"fp32": 2.0e7, "fp16": 3.2e7, "bf16": 3.2e7, "int8": 6.0e7}
LANES = {"fp32": 8, "fp16": 16, "bf16": 16, "int8": 16}
"""Output channels computed at once; the last vector of a layer counts as full."""

ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
DEPTHWISE_SHARE = 0.4
"""Pace of a depthwise convolution, as a share of a dense one's."""

CACHE_BYTES = 262_144
CACHE_BYTES_PER_MS = 2.4e7
MEMORY_BYTES_PER_MS = 8.0e6
_COMPUTE_SCALING, _MEMORY_SCALING = 0.8, 0.5

_JOINS = frozenset({"relu", "relu6", "hswish", "hsigmoid", "sigmoid", "swish", "add"})
"""Operations that join the kernel of the convolution or linear layer before them."""
_LEADS = frozenset({"conv", "linear"})
_FREE = frozenset({"input", "flatten"})


@dataclass(frozen=True)
class SimulatedLayer:
    """One described operation: names it reads, tensor it writes, output shape without batch, work and weights."""

    name: str
    op: str
    inputs: Tuple[str, ...]
    output: str
    shape: Tuple[int, ...]
    macs: int
    weights: int
    groups: int

    @classmethod
    def from_dict(cls, entry: Dict[str, Any]) -> SimulatedLayer:
        """Read one entry of a description's ``layers``; raises KeyError, TypeError or ValueError."""
        return cls(
            str(entry["name"]),
            str(entry["op"]),
            tuple(str(name) for name in entry["inputs"]),
            str(entry.get("output", entry["name"])),
            tuple(int(size) for size in entry["shape"]),
            int(entry.get("macs", 0)),
            int(entry.get("weights", 0)),
            int(entry.get("groups", 1)),
        )

    @property
    def elements(self) -> int:
        """Elements of the output for one image."""
        return math.prod(self.shape)

    @property
    def depthwise(self) -> bool:
        """Whether every output channel reads one input channel."""
        return 1 < self.groups == self.shape[0]


@dataclass(frozen=True)
class SimulatedKernel:
    """What the device runs as one unit, and its milliseconds; ``fused`` are the names of its layers in order."""

    name: str
    op: str
    ms: float
    output: str
    fused: Tuple[str, ...]


def fuse(layers: Sequence[SimulatedLayer]) -> List[List[SimulatedLayer]]:
    """Return the kernels as groups of layers: what alone reads a convolution's or linear layer's result joins it."""
    readers: Dict[str, int] = {}
    for layer in layers:
        for name in layer.inputs:
            readers[name] = readers.get(name, 0) + 1
    groups: List[List[SimulatedLayer]] = []
    open_groups: Dict[str, List[SimulatedLayer]] = {}
    for layer in layers:
        if layer.op in _FREE:
            continue
        joined = [open_groups[name] for name in layer.inputs if name in open_groups and readers[name] == 1]
        if layer.op in _JOINS and joined:
            group = joined[0]
            group.append(layer)
        else:
            group = [layer]
            groups.append(group)
        if group[0].op in _LEADS:
            open_groups[layer.name] = group
    return groups


def compute_ms(layer: SimulatedLayer, precision: str) -> float:
    """Return the milliseconds of a layer's multiply-accumulates for one image, its last vector of channels filled up."""
    lanes, channels = LANES[precision], layer.shape[0]
    padded = -(-channels // lanes) * lanes / channels
    pace = MACS_PER_MS[precision] * (DEPTHWISE_SHARE if layer.depthwise else 1.0)
    return layer.macs * padded / pace


def move_ms(traffic_bytes: float) -> float:
    """Return the milliseconds that moving so many bytes takes."""
    cached = min(traffic_bytes, CACHE_BYTES)
    return cached / CACHE_BYTES_PER_MS + (traffic_bytes - cached) / MEMORY_BYTES_PER_MS


def _roofline(compute: float, move: float, threads: int) -> float:
    return max(compute / math.pow(threads, _COMPUTE_SCALING), move / math.pow(threads, _MEMORY_SCALING))


def kernels_of(layers: Sequence[SimulatedLayer], precision: str, threads: int, batch: int) -> List[SimulatedKernel]:
    """Return the kernels of a network in order of execution."""
    elements = {layer.name: layer.elements for layer in layers}
    kernels = []
    for group in fuse(layers):
        inside = {layer.name for layer in group}
        read = sum(elements[name] for layer in group for name in layer.inputs if name not in inside)
        moved = batch * (read + group[-1].elements) + sum(layer.weights for layer in group)
        compute = batch * sum(compute_ms(layer, precision) for layer in group)
        ms = LAUNCH_MS + _roofline(compute, move_ms(ELEMENT_BYTES[precision] * moved), threads)
        last = group[-1]
        kernels.append(SimulatedKernel(last.name, group[0].op, ms, last.output, tuple(layer.name for layer in group)))
    return kernels


def whole_network(described: Dict[str, Any], precision: str, threads: int, batch: int) -> SimulatedKernel:
    """Return a network known by its totals only, ``macs`` and float32 ``bytes``, as one kernel without a launch."""
    compute = batch * float(described.get("macs", 0)) / MACS_PER_MS[precision]
    moved = batch * float(described.get("bytes", 0)) * ELEMENT_BYTES[precision] / ELEMENT_BYTES["fp32"]
    return SimulatedKernel("network", "Network", _roofline(compute, move_ms(moved), threads), "output", ())


def describe_kernels(described: Dict[str, Any], precision: str, threads: int, batch: int) -> List[SimulatedKernel]:
    """Return the kernels of a description.

    Raises:
        KeyError: A layer lacks something, reads what is not there, or the precision is unknown.
        TypeError: Something is of another type.
        ValueError: A number is none.
    """
    listed = described.get("layers")
    if not listed:
        return [whole_network(described, precision, threads, batch)]
    return kernels_of([SimulatedLayer.from_dict(entry) for entry in listed], precision, threads, batch)
