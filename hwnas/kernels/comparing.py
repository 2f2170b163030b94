"""The partition told from a file beside the one a runtime ran, by the nodes of the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from hwnas.devices.models import KernelTime
from hwnas.kernels.batch import Kernel
from hwnas.kernels.graph import name_of

OVERHEADS = (
    *("ReorderInput", "ReorderOutput", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Identity"),
    *("Reorder", "Convert", "Const", "Constant"),
)
"""Operations of runtimes that move or convert a tensor and compute nothing."""

_Ran = tuple[str, frozenset[str]]
_DECOMPOSED = "/WithoutBiases"


@dataclass(frozen=True)
class Comparison:
    """How a predicted partition differs from the one that ran.

    Attributes:
        predicted: Kernels told from the file.
        executed: Kernels that ran, overheads aside.
        equal: Kernels of both with the same nodes, or matched without names.
        unnamed: Those of them that were matched without names.
        only_predicted: Nodes of the other kernels that were told.
        only_executed: Operation and nodes of the other kernels that ran.
        overheads: Operation of the runtime -> how often it ran without computing anything.
    """

    predicted: int
    executed: int
    equal: int
    unnamed: int
    only_predicted: tuple[tuple[str, ...], ...]
    only_executed: tuple[tuple[str, ...], ...]
    overheads: dict[str, int]

    @property
    def same(self) -> bool:
        """Whether every kernel that ran was told, and no other."""
        return not self.only_predicted and not self.only_executed


def compare(predicted: Sequence[Kernel], executed: Sequence[KernelTime], path: Path) -> Comparison:
    """Compare kernels told from a file with those that ran.

    Runtimes forget names: nodes that no executed kernel names are left out, and a kernel that names no node of the file
    (a piece of a node, or a node that was renamed) counts as one of the predicted kernels that nothing names, or that
    stand for the same node as another.

    Args:
        predicted: From :func:`hwnas.kernels.reading.kernels_of_onnx`.
        executed: From :func:`hwnas.kernels.executed.executed_kernels`.
        path: The ONNX file of both.
    """
    predicted = [kernel for kernel in predicted if kernel.kind != "reorder"]
    told = {name for kernel in predicted for name in kernel.nodes}
    moved = sum(kernel.kind == "transpose" and not kernel.nodes for kernel in predicted)
    ran, overheads = _without_overheads(_named(executed, path, told), moved)
    seen = {name for _, names in ran for name in names}
    left = Counter(frozenset(kernel.nodes) & seen for kernel in predicted)
    extra: list[_Ran] = []
    for op, names in ran:
        if names and left[names]:
            left[names] -= 1
        else:
            extra.append((op, names))
    extra = _without_pieces(extra, left, [names for _, names in ran])
    named = sum(bool(names) for _, names in ran) - sum(bool(names) for _, names in extra)
    return Comparison(
        predicted=len(predicted),
        executed=len(ran),
        equal=len(ran) - len(extra),
        unnamed=len(ran) - len(extra) - named,
        only_predicted=tuple(tuple(sorted(names)) for names in left.elements()),
        only_executed=tuple((op, *sorted(names)) for op, names in extra),
        overheads=overheads,
    )


def _named(executed: Sequence[KernelTime], path: Path, told: set[str]) -> list[_Ran]:
    """Return, per kernel that ran, its operation and those of its nodes that were told."""
    aliases = _aliases(path)
    return [
        (kernel.op, frozenset(aliases.get(name.removesuffix(_DECOMPOSED), "") for name in kernel.fused) & told)
        for kernel in executed
    ]


def _without_overheads(ran: list[_Ran], moved: int) -> tuple[list[_Ran], dict[str, int]]:
    """Return what computes, and how often what else ran; ``moved`` transposes without a name were told."""
    kept, overheads = [], Counter[str]()
    for op, names in ran:
        transposes = op == "Transpose" and not names
        if op in OVERHEADS or (transposes and not moved):
            overheads[op] += 1
        else:
            moved -= transposes
            kept.append((op, names))
    return kept, dict(sorted(overheads.items()))


def _without_pieces(extra: list[_Ran], left: Counter[frozenset[str]], ran: list[frozenset[str]]) -> list[_Ran]:
    """Return the kernels that are no nameless piece of what was told; take the others out of ``left``."""
    kept = []
    repeated = {names for names in left if left[names] and (not names or any(names <= other for other in ran))}
    for op, names in extra:
        piece = next((told for told in sorted(repeated, key=len, reverse=True) if left[told]), None)
        if names or piece is None:
            kept.append((op, names))
        else:
            left[piece] -= 1
    return kept


def _aliases(path: Path) -> dict[str, str]:
    """Return, per name of a node or of what it makes, what the node is called."""
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    found = {name: name_of(node) for node in nodes for name in node.output}
    return found | {name_of(node): name_of(node) for node in nodes}
