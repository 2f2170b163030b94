"""What each block of an exported file costs on the target, by the runtime's own kernel times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.artifacts.pipeline import BLOCKS
from hwnas.errors import MeasurementFailure
from hwnas.files import write_json
from hwnas.spaces.base import Architecture, SearchSpace

if TYPE_CHECKING:
    from hwnas.backends.base import Backend
    from hwnas.devices.session import Session

OVERHEAD = "overhead"


def block_costs(
    session: Session, handle: str, backend: Backend, space: SearchSpace[Any], architecture: Architecture
) -> list[tuple[str, float]]:
    """Return ``(block, milliseconds)`` in order of execution, what belongs to no block last as ``overhead``.

    Empty where the runtime cannot tell, or where nothing it tells belongs to a block.
    """
    try:
        kernels = session.kernels(handle)
    except MeasurementFailure:
        return []
    graph = space.graph(architecture)
    totals = {block.name: 0.0 for block in space.blocks(architecture)}
    overhead = 0.0
    for kernel in kernels:
        block = backend.kernel_block(kernel, graph)
        if block in totals:
            totals[block] += kernel.ms
        else:
            overhead += kernel.ms
    return [*totals.items(), (OVERHEAD, overhead)] if any(totals.values()) else []


def write_blocks(
    folder: Path, session: Session, handle: str, backend: Backend, space: SearchSpace[Any], architecture: Architecture
) -> None:
    """Write ``blocks.json`` into ``folder``, unless the costs are not known."""
    costs = block_costs(session, handle, backend, space, architecture)
    if costs:
        blocks = [{"name": name, "ms": round(ms, 6)} for name, ms in costs]
        write_json(folder / BLOCKS, {"blocks": blocks, "source": "kernel times of the exported file"})
