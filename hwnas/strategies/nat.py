"""NAT, the baseline NATv2 improves on: uniform start, growing archive, one-hot features.

Source: Lu, Sreekumar, Goodman, Banzhaf, Deb, Boddeti, "Neural Architecture Transfer" (TPAMI 2021).
"""

from __future__ import annotations

import numpy as np

from hwnas.config import SearchSection
from hwnas.spaces.base import IntArray, unique_rows
from hwnas.strategies.natv2 import NatV2
from hwnas.strategies.problem import Problem


class Nat(NatV2):
    """Starts from ``initial`` architectures uniform in genes with both ends, and never drops a member.

    Limits count in its inner search, and nowhere before: its start knows nothing of them, as published. Everything
    is evaluated again after an adaptation, whatever the section says.
    """

    name = "nat"
    one_hot = True

    def __init__(self, problem: Problem, section: SearchSection) -> None:
        super().__init__(problem, section.model_copy(update={"reevaluate": "all"}))

    def _initial(self) -> IntArray:
        space = self.problem.space
        ends = np.vstack([self.problem.smallest(), self.problem.largest()])
        drawn = space.repair(
            self.rng.integers(space.lower, space.upper + 1, size=(4 * self.section.initial, space.n_genes))
        )
        inner = unique_rows(drawn, [row.tobytes() for row in ends])[: max(0, self.section.initial - len(ends))]
        return unique_rows(np.vstack([inner, ends]))

    def _survive(self) -> None:
        """Keep every member: the archive grows."""
