"""Which block a runtime's kernel belongs to, read from the layer names that were written into the model file."""

from __future__ import annotations

import functools
import re

from hwnas.devices.models import KernelTime
from hwnas.spaces.graph import LayerGraph

INPUT = "input"
OUTPUT = "output"

OVERHEAD_OPS = frozenset(
    {"ReorderInput", "ReorderOutput", "Reorder", "Transpose", "Convert", "Input", "Output", "Const"}
)
"""Operations a runtime inserts between kernels on its own: changes of layout and precision."""

_SEPARATOR = re.compile(r"[._/:]")


def tensor_names(graph: LayerGraph) -> dict[str, str]:
    """Return layer name -> name of the tensor it produces: its own, but ``input`` and ``output`` at the ends."""
    names = {layer.name: layer.name for layer in graph.layers}
    names[graph.layers[-1].name] = OUTPUT
    names[graph.layers[0].name] = INPUT
    return names


@functools.lru_cache(maxsize=64)
def _blocks_by_name(graph: LayerGraph) -> dict[str, str]:
    blocks = {layer.block: layer.block for layer in graph.layers}
    blocks.update({layer.name: layer.block for layer in graph.layers})
    blocks[INPUT] = graph.layers[0].block
    blocks[OUTPUT] = graph.layers[-1].block
    return blocks


def block_of_name(name: str, graph: LayerGraph) -> str | None:
    """Return the block of the layer or block whose name ``name`` starts with, suffixes such as ``/Add`` taken off."""
    blocks = _blocks_by_name(graph)
    end = len(name)
    while end > 0:
        if name[:end] in blocks:
            return blocks[name[:end]]
        end = max((match.start() for match in _SEPARATOR.finditer(name, 0, end)), default=0)
    return None


def block_of_kernel(kernel: KernelTime, graph: LayerGraph) -> str | None:
    """Return the block of a kernel by what it produces, else by its own name, else by what was fused into it.

    Layout changes are overhead (None): they lie between two blocks and belong to neither.
    """
    if kernel.op in OVERHEAD_OPS:
        return None
    for name in (*kernel.outputs, kernel.name, *reversed(kernel.fused)):
        block = block_of_name(name, graph)
        if block is not None:
            return block
    return None
