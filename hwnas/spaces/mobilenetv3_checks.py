"""Whether an architecture belongs to a MobileNetV3 space, and architectures from plain data."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from hwnas.errors import SpaceError
from hwnas.spaces.mobilenetv3_codes import BRANCH_SETS, read_branches
from hwnas.spaces.mobilenetv3_plan import MobileNetV3Architecture

if TYPE_CHECKING:
    from hwnas.spaces.mobilenetv3 import MobileNetV3Space


def read_architecture(space: MobileNetV3Space, value: dict[str, Any]) -> MobileNetV3Architecture:
    """Return the architecture that ``as_dict`` described, unchecked.

    Raises:
        SpaceError: A key is missing or holds no number.
    """
    try:
        kernels = tuple(tuple(int(kernel) for kernel in stage["kernels"]) for stage in value["stages"])
        expands = tuple(tuple(float(expand) for expand in stage["expands"]) for stage in value["stages"])
        branches: tuple[tuple[int, ...], ...] = ()
        if space.parallel:
            branches = tuple(tuple(read_branches(layer) for layer in stage["branches"]) for stage in value["stages"])
        exits = tuple(int(number) for number in value.get("exits", ()))
        return MobileNetV3Architecture(
            int(value["resolution"]), float(value["width"]), kernels, expands, branches, exits
        )
    except (KeyError, TypeError, ValueError) as error:
        parts = "kernels, expands and branches" if space.parallel else "kernels and expands"
        raise SpaceError(
            f"an architecture of {space.name} needs resolution, width and stages (each with {parts}); "
            f"{error!r} in {value!r}."
        ) from error


def check_architecture(space: MobileNetV3Space, architecture: MobileNetV3Architecture) -> None:
    """Raise unless every choice is one of the space.

    Raises:
        SpaceError: The first choice that is not; what is allowed is named.
    """
    stages = len(architecture.kernels)
    checks: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("resolution", architecture.resolution, space.resolutions),
        ("width", architecture.width, space.widths),
        ("number of stages", stages, space.exits),
        ("number of stages", len(architecture.expands), (stages,)),
        ("number of stages with branches", len(architecture.branches), (stages if space.parallel else 0,)),
    ]
    for stage, (kernels, expands) in enumerate(zip(architecture.kernels, architecture.expands, strict=False)):
        checks.append((f"layers of stage {stage}", len(kernels), space.depths))
        checks.append((f"expands of stage {stage}", len(expands), (len(kernels),)))
        checks.extend((f"kernel in stage {stage}", kernel, space.kernels) for kernel in kernels)
        checks.extend((f"expand in stage {stage}", expand, space.expands) for expand in expands)
    for stage, (kernels, branches) in enumerate(zip(architecture.kernels, architecture.branches, strict=False)):
        checks.append((f"branches of stage {stage}", len(branches), (len(kernels),)))
        checks.extend((f"branches in stage {stage}", layer, BRANCH_SETS) for layer in branches)
    for what, value, allowed in checks:
        if value not in allowed:
            raise SpaceError(f"{what} {value!r} is not in space {space.name}; allowed: {list(allowed)}.")
    check_exits(space, architecture)


def check_exits(space: MobileNetV3Space, architecture: MobileNetV3Architecture) -> None:
    """Raise unless the exits an architecture names are none, or several of the space's that end with its last stage.

    Raises:
        SpaceError: They are something else.
    """
    exits, last = architecture.exits, len(architecture.kernels)
    if not exits:
        return
    ascending = all(a < b for a, b in itertools.pairwise(exits))
    if not space.early or len(exits) < 2 or not ascending or exits[0] < 1 or exits[-1] != last:
        raise SpaceError(
            f"exits {list(exits)} of a network of {last} stages: in space {space.name} "
            + (
                f"they must be several, ascending from 1 on, the last one {last}."
                if space.early
                else "there is but one."
            )
        )
