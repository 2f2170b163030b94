"""A genetic algorithm for one objective under hard limits, as Once-for-All searches (Cai et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwnas.spaces.base import IntArray, unique_rows
from hwnas.strategies.inner_search import PredictAccuracy
from hwnas.strategies.problem import Problem, View
from hwnas.strategies.sampling import draw_eligible, eligible

PARENTS = 0.25
"""Share of a population that stays and breeds."""

MUTANTS = 0.5
"""Share of a population that is made by mutation; what is left is made by crossover."""

GENE_MUTATION = 0.1
"""Chance of each gene of a mutant to be drawn anew."""

TRIES = 20
"""Broods per generation: whoever breaks a limit is thrown away, as published, but not for ever."""


def evolve(
    problem: Problem,
    view: View,
    predict: PredictAccuracy,
    *,
    population: int,
    generations: int,
    rng: np.random.Generator,
) -> IntArray:
    """Return the last population, ``[n, n_genes]``, all within the limits of ``view``, best predicted accuracy first.

    Truncation selection: the best quarter stays and breeds; half of a generation are mutants, the rest uniform crossovers.

    Args:
        problem: Space, costs and limits.
        view: Whose limits count.
        predict: Predicts accuracy.
        population: Size of the population; smaller where few architectures keep the limits.
        generations: Number of generations.
        rng: Source of all randomness.
    """
    X = _ranked(predict, draw_eligible(problem, view, rng, population, set(), margin=0.0))
    n_parents, n_mutants = max(1, round(PARENTS * population)), round(MUTANTS * population)
    for _ in range(generations if len(X) else 0):
        parents = X[:n_parents]

        def mutate(count: int, parents: IntArray = parents) -> IntArray:
            return _mutants(problem, parents, count, rng)

        def cross(count: int, parents: IntArray = parents) -> IntArray:
            return _crossed(problem, parents, count, rng)

        mutants = _brood(problem, view, mutate, n_mutants)
        crossed = _brood(problem, view, cross, population - n_parents - n_mutants)
        X = _ranked(predict, unique_rows(np.vstack([parents, mutants, crossed])))
    return X


def _ranked(predict: PredictAccuracy, X: IntArray) -> IntArray:
    return X[np.argsort(-predict(X), kind="stable")] if len(X) else X


def _brood(problem: Problem, view: View, make: Callable[[int], IntArray], count: int) -> IntArray:
    """Return up to ``count`` offspring that keep the limits; the others are made again."""
    kept = np.empty((0, problem.space.n_genes), dtype=np.int64)
    for _ in range(TRIES):
        if len(kept) >= count:
            break
        made = make(count - len(kept))
        kept = np.vstack([kept, made[eligible(view, problem.costs(made).G, 0.0)]])
    return kept


def _mutants(problem: Problem, parents: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    space = problem.space
    chosen = parents[rng.integers(len(parents), size=count)]
    drawn = rng.integers(space.lower, space.upper + 1, size=chosen.shape)
    return space.repair(np.where(rng.random(chosen.shape) < GENE_MUTATION, drawn, chosen))


def _crossed(problem: Problem, parents: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    first, second = (parents[rng.integers(len(parents), size=count)] for _ in range(2))
    return problem.space.repair(np.where(rng.random(first.shape) < 0.5, first, second))
