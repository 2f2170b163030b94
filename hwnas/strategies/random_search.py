"""Random search among architectures that keep the limits: the baseline every strategy has to beat."""

from __future__ import annotations

import numpy as np

from hwnas.spaces.base import IntArray
from hwnas.strategies.distribution import Sampler
from hwnas.strategies.loop import ArchiveStrategy
from hwnas.strategies.problem import FloatArray
from hwnas.strategies.sampling import draw_for_views


class RandomSearch(ArchiveStrategy):
    """Draws eligible architectures, ``initial * oversample`` at first and ``candidates`` per iteration; never adapts."""

    name = "random"

    def _initial(self) -> IntArray:
        ends = {row.tobytes() for row in (self.problem.smallest(), self.problem.largest())}
        count = max(0, self.section.initial * self.section.oversample - 1)
        drawn = draw_for_views(self.problem, self.rng, count, ends)
        return np.vstack([drawn, self.problem.smallest()[None]])

    def _candidates(self) -> tuple[IntArray, FloatArray | None, FloatArray | None]:
        return self._fill_up(np.empty((0, self.problem.space.n_genes), dtype=np.int64), margin=0.0), None, None

    def sampler(self) -> Sampler | None:
        """Return None: random search leaves the supernet as it is."""
        return None
