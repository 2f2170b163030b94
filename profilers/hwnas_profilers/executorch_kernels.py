"""What ExecuTorch's event tracer tells: the kernels of a run, their precision, and the layers they belong to.

XNNPACK calls its kernels by what they are, for example ``Convolution (NHWC, F32) DWConv #2``; which layer that is stands in
``layers.json`` beside the program: the nodes XNNPACK was given, in order. XNNPACK drops some nodes and renames others, but
keeps the order, and of convolutions and matrix products it keeps every one.
"""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Sequence, Tuple

from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Kernel

Nodes = List[Tuple[str, str]]
"""Operation and module path of what one part of a program asks of XNNPACK, in order."""

PORTABLE = "native_call_"
_CALLS = ("DELEGATE_CALL", "OPERATOR_CALL", "Method::execute")
_COMPUTE = ("Convolution", "Deconvolution", "Fully Connected", "Batch Matrix Multiply")
_COMPUTE_NODES = ("Conv2d", "DepthwiseConv2d", "ConvTranspose2d", "FullyConnected", "BatchMatrixMultiply")
_PORTABLE_COMPUTE = ("convolution", "linear", "addmm", "mm", "bmm")
_LAYOUT_NODES = ("Convert", "StaticTranspose")
_NODE_OF = {
    "Mean": "GlobalAvgPooling2d",
    "Divide": "Div",
    "Max Pooling": "MaxPooling2d",
    "Average Pooling": "AvgPooling2d",
}
_UNNAMED = ("Invalid Unary Op", "Copy")
_KIND = re.compile(r"^(?P<op>[^(]+?) \((?P<kinds>[^)]*)\)")


@dataclass(frozen=True)
class Event:
    """One kernel of one run: its own name, operation, number types it computes in, part of the program, milliseconds."""

    name: str
    op: str
    kinds: Tuple[str, ...]
    part: int
    ms: float

    @property
    def computes(self) -> bool:
        """Whether it is a convolution or a matrix product."""
        return self.op in _COMPUTE or (self.portable and self.op in _PORTABLE_COMPUTE)

    @property
    def portable(self) -> bool:
        """Whether ExecuTorch's own portable kernels ran it instead of XNNPACK."""
        return self.part < 0

    @property
    def precision(self) -> str:
        """What it computes in; ``other`` for a mixture, such as int8 weights with float activations."""
        if self.portable:
            return "fp32"
        letters = {re.sub(r"\d.*", "", kind) for kind in self.kinds if re.search(r"\d", kind)}
        if letters and letters <= {"QS", "QU", "QC"}:
            return "int8"
        if letters == {"F"}:
            return "fp16" if "F16" in self.kinds else "fp32"
        return "other"


def read_runs(data: bytes) -> List[List[Event]]:
    """Return the kernels of every run in a tracer's file, in order of execution."""
    from executorch.devtools.etdump.serialize import deserialize_from_etdump_flatcc

    runs = []
    for entry in deserialize_from_etdump_flatcc(data).run_data:
        found: List[Event] = []
        part = 0
        waiting: List[Tuple[str, float]] = []
        for profiled in (event.profile_event for event in entry.events or () if event.profile_event):
            if profiled.name == "DELEGATE_CALL":
                found += [_event(name, part, ms) for name, ms in waiting]
                part, waiting = part + 1, []
            elif profiled.name is None or profiled.delegate_debug_id_str:
                waiting.append((str(profiled.delegate_debug_id_str), _ms(profiled)))
            elif profiled.name.startswith(PORTABLE):
                op = profiled.name[len(PORTABLE) :].partition(".")[0]
                found.append(Event(profiled.name, op, (), -1, _ms(profiled)))
        if found:
            runs.append(found)
    return runs


def _ms(profiled: Any) -> float:
    return float(profiled.end_time - profiled.start_time) / 1e6


def _event(name: str, part: int, ms: float) -> Event:
    match = _KIND.match(name)
    if match is None:
        return Event(name, re.sub(r" #\d+$", "", name), (), part, ms)
    return Event(name, match["op"], tuple(match["kinds"].split(", ")), part, ms)


def check_precision(events: Sequence[Event], wanted: str, name: str) -> Tuple[str, ...]:
    """Return notes on how a program runs, if it runs in the precision that was asked for.

    Float programs must compute in that precision everywhere; of int8 programs some layers may stay in float.

    Raises:
        Failure: ``fallback``.
    """
    computing = [event for event in events if event.computes]
    good = sum(event.precision == wanted for event in computing)
    if (wanted == "int8" and not good) or (wanted != "int8" and good < len(computing)):
        found = ", ".join(sorted({event.precision for event in computing})) or "none"
        raise Failure("fallback", f"{wanted} was asked for, the compute kernels of {name} run in: {found}")
    delegated = sum(not event.portable for event in computing)
    return (
        f"{good} of {len(computing)} compute kernels run in {wanted}",
        f"XNNPACK runs {delegated} of {len(computing)} compute kernels, and {sum(not e.portable for e in events)} of "
        f"{len(events)} of all; the rest are ExecuTorch's portable kernels",
    )


def read_layers(path: Path) -> List[Nodes]:
    """Return the nodes of every part, from ``layers.json``; none if there is no such file.

    Raises:
        Failure: ``load_failed``, when the file is something else.
    """
    if not path.is_file():
        return []
    try:
        return [[(str(op), str(name)) for op, name in part] for part in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise Failure("load_failed", f"{path.name} does not list the layers of the program: {error}") from error


def _fits(event: Event, node: str) -> bool:
    """Say whether an event can be what became of a node."""
    if event.op in _UNNAMED:
        return node not in _COMPUTE_NODES and node not in _LAYOUT_NODES
    wanted = _NODE_OF.get(event.op, event.op).replace(" ", "").lower()
    return node.lower() in (wanted, f"static{wanted}")


def _named_part(events: Sequence[Event], nodes: Nodes) -> List[str]:
    """Return the layer of every event of one part; empty names where it cannot be told."""
    anchors = [index for index, (op, _) in enumerate(nodes) if op in _COMPUTE_NODES]
    if len(anchors) != sum(event.computes for event in events):
        return ["" for _ in events]
    names = []
    position, taken = 0, 0
    for event in events:
        if event.computes:
            names.append(nodes[anchors[taken]][1])
            position, taken = anchors[taken] + 1, taken + 1
            continue
        end = anchors[taken] if taken < len(anchors) else len(nodes)
        match = next((index for index in range(position, end) if _fits(event, nodes[index][0])), None)
        names.append("" if match is None else nodes[match][1])
        position = position if match is None else match + 1
    return names


def layer_names(events: Sequence[Event], parts: Sequence[Nodes]) -> List[str]:
    """Return the layer every event of a run belongs to; empty where it cannot be told."""
    names = ["" for _ in events]
    for part, nodes in enumerate(parts):
        places = [index for index, event in enumerate(events) if event.part == part]
        for index, name in zip(places, _named_part([events[index] for index in places], nodes)):
            names[index] = name
    return names


def medians(runs: Sequence[Sequence[Event]], parts: Sequence[Nodes], cold: int) -> List[Kernel]:
    """Return the kernels of a program with the median of their times, cold runs left out.

    Raises:
        Failure: ``unstable``, when two runs were not of the same kernels.
    """
    warm = runs[cold:] or runs
    if len({tuple(event.name for event in run) for run in warm}) != 1:
        raise Failure("unstable", "ExecuTorch did not run the same kernels every time")
    kernels = []
    for place, (event, name) in enumerate(zip(warm[0], layer_names(warm[0], parts))):
        ms = statistics.median(run[place].ms for run in warm)
        kernels.append(Kernel(event.name, event.op, ms, (name,) if name else ()))
    return kernels
