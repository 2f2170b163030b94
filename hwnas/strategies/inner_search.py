"""Inner search: a genetic algorithm over canonical genotypes on predicted accuracy and exact costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.problem import Problem as PymooProblem
from pymoo.core.repair import Repair
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.optimize import minimize

from hwnas.spaces.base import IntArray, unique_rows
from hwnas.strategies.problem import FloatArray, Problem, View
from hwnas.strategies.sorting import reference_directions

PredictAccuracy = Callable[[IntArray], FloatArray]
"""``X [n, n_genes] -> accuracy [n]``."""


@dataclass(frozen=True)
class Candidates:
    """The last population of an inner search, without members of the archive.

    Attributes:
        X: Canonical encodings, ``[n, n_genes]``.
        F: Predicted error, then the view's costs, ``[n, 1 + n_view_costs]``.
        G: The view's constraints, ``[n, n_view_limits]``.
    """

    X: IntArray
    F: FloatArray
    G: FloatArray

    def __len__(self) -> int:
        return len(self.X)


class CanonicalRepair(Repair):  # type: ignore[misc]
    """Brings every individual into the canonical form of its space before it is predicted or compared."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self._space = problem.space

    def _do(self, problem: Any, X: Any, **kwargs: Any) -> IntArray:
        return self._space.repair(np.rint(X).astype(np.int64))


class SurrogateProblem(PymooProblem):  # type: ignore[misc]
    """Error by the surrogate, costs by the problem, limits as ``G``."""

    def __init__(self, problem: Problem, view: View, predict: PredictAccuracy) -> None:
        space = problem.space
        super().__init__(
            n_var=space.n_genes,
            n_obj=1 + len(view.costs),
            n_ieq_constr=len(view.limits),
            xl=space.lower,
            xu=space.upper,
            vtype=int,
        )
        self._problem = problem
        self._view = view
        self._predict = predict

    def objectives(self, X: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return objectives and constraints of canonical encodings."""
        costs = self._problem.costs(X)
        return self._view.objectives(self._predict(X), costs.F), self._view.constraints(costs.G)

    def _evaluate(self, X: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        out["F"], G = self.objectives(np.asarray(X, dtype=np.int64))
        if G.shape[1]:
            out["G"] = G


def _algorithm(problem: Problem, n_objectives: int, start: IntArray, population: int) -> Any:
    operators = {
        "pop_size": population,
        "sampling": start,
        "crossover": TwoPointCrossover(prob=0.9),
        "mutation": PM(eta=1.0, vtype=float, repair=RoundingRepair()),
        "repair": CanonicalRepair(problem),
        "eliminate_duplicates": True,
    }
    if n_objectives == 1:
        return GA(**operators)
    if n_objectives == 2:
        return NSGA2(**operators)
    return NSGA3(ref_dirs=reference_directions(n_objectives, population), **operators)


def _start(problem: Problem, seeds: IntArray, population: int, rng: np.random.Generator) -> IntArray:
    """Return the first population: the archive's front, filled up with samples of the space."""
    drawn = problem.space.sample(rng, 2 * population)
    return unique_rows(np.vstack([seeds.reshape(-1, problem.space.n_genes), drawn]))[:population]


def inner_search(
    problem: Problem,
    view: View,
    predict: PredictAccuracy,
    *,
    seeds: IntArray,
    known: set[bytes],
    population: int,
    generations: int,
    rng: np.random.Generator,
) -> Candidates:
    """Search one view with NSGA-II (two objectives), NSGA-III (more) or a plain genetic algorithm (one).

    Operators and sizes follow NAT (Lu et al. 2021) and NATv2: integer two-point crossover (0.9), polynomial mutation
    (eta 1, 1/n_genes), here with canonical repair before every evaluation and limits as constraints.

    Args:
        problem: Space, costs and limits.
        view: Whose costs and limits count.
        predict: Surrogate.
        seeds: Encodings the search starts from, ``[n, n_genes]`` (the archive's front).
        known: Keys of encodings already evaluated; they are removed from the result.
        population: Size of the population.
        generations: Number of generations.
        rng: Source of all randomness.
    """
    adapter = SurrogateProblem(problem, view, predict)
    start = _start(problem, seeds, population, rng)
    result = minimize(
        adapter,
        _algorithm(problem, 1 + len(view.costs), start, population),
        ("n_gen", generations),
        seed=int(rng.integers(2**31 - 1)),
        copy_algorithm=False,
        verbose=False,
    )
    final = problem.space.repair(np.rint(np.atleast_2d(result.pop.get("X"))).astype(np.int64))
    X = unique_rows(final, list(known))
    if not len(X):
        return Candidates(X, np.empty((0, adapter.n_obj)), np.empty((0, adapter.n_ieq_constr)))
    return Candidates(X, *adapter.objectives(X))
