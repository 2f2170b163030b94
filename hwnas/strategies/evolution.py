"""Once-for-All's search as a baseline: a predictor of accuracy, and evolution under one limit at a time.

Source: Cai, Gan, Wang, Zhang, Han, "Once-for-All: Train One Network and Specialize It for Efficient Deployment" (2020).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwnas.spaces.base import IntArray, unique_rows
from hwnas.strategies.archive import accuracy_of, encodings_of
from hwnas.strategies.breeding import evolve
from hwnas.strategies.problem import FloatArray, Limit, Problem, View
from hwnas.strategies.random_search import RandomSearch
from hwnas.strategies.sampling import shares
from hwnas.strategies.surrogate import AccuracySurrogate


def limited(problem: Problem, view: View, maximum: float | None) -> Problem:
    """Return the problem with a further limit on the view's first cost, none if ``maximum`` is None."""
    if maximum is None:
        return problem
    return replace(problem, limits=(*problem.limits, Limit(problem.cost_names[view.costs[0]], maximum)))


def ladder(low: float, high: float, steps: int, shift: float) -> FloatArray:
    """Return ``steps`` limits spread evenly over ``(low, high]``, moved down by ``shift`` (0 to 1) of a step."""
    return np.asarray(low + (high - low) * (np.arange(steps) + 1.0 - shift) / steps, dtype=np.float64)


class Evolution(RandomSearch):
    """Per candidate one limit on the first cost, and under it a genetic algorithm for predicted accuracy alone.

    Published: 16,000 networks train the predictor once, then a population of 100 lives 500 generations for one limit. Here
    the first members train it, it is fitted again on every iteration's new ones, and every candidate is the end of
    a population of ``inner_population`` after ``inner_generations`` under its own limit, so that the limits walk over the
    whole range. All limits hold by rejection. It starts like random search, and leaves the supernet as it is.
    """

    name = "evolution"

    def _candidates(self) -> tuple[IntArray, FloatArray | None, FloatArray | None]:
        members = self.archive.members
        space = self.problem.space
        surrogate = AccuracySurrogate(space.lower, space.upper, seed=int(self.rng.integers(2**31 - 1)))
        surrogate.fit(encodings_of(members), accuracy_of(members))
        chosen = np.empty((0, space.n_genes), dtype=np.int64)
        views = self.problem.views
        for view, share in zip(views, shares(self.section.candidates, len(views), self.iteration), strict=True):
            for maximum in self._limits(view, share):
                taken = self.archive.keys | {row.tobytes() for row in chosen}
                chosen = np.vstack([chosen, self._best(view, maximum, surrogate, taken)])
        chosen = self._fill_up(chosen, margin=0.0)
        return (chosen, *surrogate.predict(chosen)) if len(chosen) else (chosen, None, None)

    def _limits(self, view: View, steps: int) -> list[float | None]:
        """Return the limits that candidates of one view are bred under; shifted anew by the golden ratio each iteration."""
        if not view.costs or not steps:
            return [None] * steps
        name = self.problem.cost_names[view.costs[0]]
        own = [limit.maximum for limit in self.problem.limits if limit.cost == name]
        ends = np.vstack([self.problem.smallest(), self.problem.largest()])
        low, high = limited(self.problem, view, 1.0).costs(ends).upper[:, -1]
        shift = self.iteration * (np.sqrt(5.0) - 1.0) / 2.0 % 1.0
        return [float(value) for value in ladder(float(low), min(own, default=float(high)), steps, shift)]

    def _best(self, view: View, maximum: float | None, surrogate: AccuracySurrogate, taken: set[bytes]) -> IntArray:
        """Return the new architecture of the highest predicted accuracy under a limit, ``[1, n_genes]`` or none."""
        problem = limited(self.problem, view, maximum)
        own = next(entry for entry in problem.views if entry.name == view.name)
        X = evolve(
            problem,
            own,
            lambda rows: surrogate.predict(rows)[0],
            population=self.section.inner_population,
            generations=self.section.inner_generations,
            rng=self.rng,
        )
        return unique_rows(X, list(taken))[:1]
