"""The integer code of one layer: its kernel, its expansion and, in parallel blocks, which branches are on.

Source: NATv2's encoding (Sarti et al., 2023). 0 skips the layer. Without parallel blocks a code is
``n_kernels * expand index + kernel index + 1``; with them the number of codes without is added for every step through
:data:`BRANCH_SETS`. There the bottleneck's kernel and expansion decide nothing while it is off: canonical codes then name
the smallest, so that no two of them mean the same layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwnas.errors import SpaceError
from hwnas.spaces.base import IntArray

TRANSFORM, POINTWISE, BOTTLENECK = 1, 2, 4
"""Bits of the branches of a parallel block."""

BRANCH_SETS = (1, 2, 4, 3, 5, 6, 7)
"""Sets of branches that are on, by their number and then by their bits: the order of the codes."""

BRANCH_NAMES = {BOTTLENECK: "bottleneck", POINTWISE: "pointwise", TRANSFORM: "transform"}
"""In order of execution."""

LEVELS = (1, 2, 3)
"""How many branches may be on (the published code's net widths)."""


def branch_names(branches: int) -> tuple[str, ...]:
    """Return the names of the branches that are on, in order of execution."""
    return tuple(name for bit, name in BRANCH_NAMES.items() if branches & bit)


def sets_of_level(level: int) -> tuple[int, ...]:
    """Return the sets of ``level`` branches, cheapest first."""
    return tuple(branches for branches in BRANCH_SETS if branches.bit_count() == level)


def spell_branches(branches: int) -> str:
    """Return a set of branches as text, for example ``bottleneck+transform``."""
    return "+".join(branch_names(branches))


def read_branches(text: str) -> int:
    """Read what :func:`spell_branches` wrote.

    Raises:
        SpaceError: No such set.
    """
    for branches in BRANCH_SETS:
        if spell_branches(branches) == text:
            return branches
    known = ", ".join(spell_branches(branches) for branches in BRANCH_SETS)
    raise SpaceError(f"branches {text!r} are not a set of branches; known: {known}.")


@dataclass(frozen=True)
class LayerCodes:
    """The codes of one space.

    Attributes:
        kernels: Kernel sides, ascending.
        expands: Expansion ratios, ascending.
        parallel: Whether layers have parallel branches.
    """

    kernels: tuple[int, ...]
    expands: tuple[float, ...]
    parallel: bool

    @property
    def pairs(self) -> int:
        """Number of (expansion, kernel) pairs."""
        return len(self.kernels) * len(self.expands)

    @property
    def highest(self) -> int:
        """The highest code: everything largest, every branch on."""
        return self.pairs * (len(BRANCH_SETS) if self.parallel else 1)

    def encode(self, kernel: int, expand: float, branches: int) -> int:
        """Return the canonical code of a layer; ``branches`` counts in parallel blocks only."""
        pair = len(self.kernels) * self.expands.index(expand) + self.kernels.index(kernel)
        if not self.parallel:
            return pair + 1
        return self.pairs * BRANCH_SETS.index(branches) + (pair if branches & BOTTLENECK else 0) + 1

    def decode(self, code: int) -> tuple[int, float, int]:
        """Return kernel, expansion and branches of a code above 0."""
        which, pair = divmod(code - 1, self.pairs)
        expand, kernel = divmod(pair, len(self.kernels))
        return self.kernels[kernel], self.expands[expand], BRANCH_SETS[which] if self.parallel else BOTTLENECK

    def canonical(self, codes: IntArray) -> IntArray:
        """Return the canonical form of codes of any shape, each within its bounds."""
        if not self.parallel:
            return codes
        which, pair = np.divmod(codes - 1, self.pairs)
        inert = (codes > 0) & ((np.array(BRANCH_SETS)[which] & BOTTLENECK) == 0)
        return np.where(inert, codes - pair, codes)
