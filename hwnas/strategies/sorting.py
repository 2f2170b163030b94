"""Constraint-domination: who survives, and which points are not dominated."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
from pymoo.core.population import Population
from pymoo.core.problem import Problem as PymooProblem
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from pymoo.util.ref_dirs import get_reference_directions

from hwnas.strategies.problem import FloatArray

IndexArray = NDArray[np.int64]


def violation(G: FloatArray) -> FloatArray:
    """Return the total violation of each row of ``G [n, n_limits]``: the sum of its positive parts, ``[n]``."""
    return np.asarray(np.maximum(G, 0.0).sum(axis=1), dtype=np.float64)


def non_dominated(F: FloatArray, G: FloatArray) -> IndexArray:
    """Return the indices of the feasible rows that no feasible row dominates, in ascending order.

    Args:
        F: Objectives to minimise, ``[n, n_objectives]``.
        G: Constraints, ``[n, n_limits]``, kept where at most 0.
    """
    feasible = np.flatnonzero(violation(G) <= 0.0)
    if not len(feasible):
        return np.empty(0, dtype=np.int64)
    front = NonDominatedSorting().do(F[feasible], only_non_dominated_front=True)
    return np.sort(feasible[front]).astype(np.int64)


@functools.cache
def reference_directions(n_objectives: int, count: int) -> FloatArray:
    """Return at most ``count`` Das-Dennis directions, ``[n, n_objectives]``: the most of that kind, so that no niche stays empty.

    NAT has exactly ``count`` directions of least Riesz energy, which takes seconds for every new count and number.
    """
    partitions = 1
    while math.comb(partitions + n_objectives, n_objectives - 1) <= count:
        partitions += 1
    directions = get_reference_directions("das-dennis", n_objectives, n_partitions=partitions)
    return np.asarray(directions, dtype=np.float64)[:count]


def _by_crowding(F: FloatArray, count: int) -> IndexArray:
    """Rank first, then crowding distance (NSGA-II, Deb et al. 2002, III.B); the ends of a front come first."""
    chosen: list[int] = []
    for front in NonDominatedSorting().do(F, n_stop_if_ranked=count):
        crowding = calc_crowding_distance(F[front]) if len(front) > 2 else np.full(len(front), np.inf)
        chosen.extend(int(front[i]) for i in np.argsort(-crowding, kind="stable"))
    return np.array(chosen[:count], dtype=np.int64)


def _by_niching(F: FloatArray, count: int) -> IndexArray:
    """Reference-direction niching (NSGA-III, Deb and Jain 2014, IV); the best row of each objective always stays."""
    ideal = [int(np.lexsort((F.sum(axis=1), F[:, j]))[0]) for j in range(F.shape[1])]
    extremes = list(dict.fromkeys(ideal))[:count]
    population = Population.new(F=F, index=np.arange(len(F)))
    niching: Any = ReferenceDirectionSurvival(reference_directions(F.shape[1], count))
    # Ties between niches are broken at random in NSGA-III; a fixed seed keeps survival a pure function.
    survivors = niching.do(
        PymooProblem(n_var=1, n_obj=F.shape[1]), population, n_survive=count, random_state=np.random.default_rng(0)
    )
    others = sorted(int(i) for i in survivors.get("index") if i not in extremes)
    return np.array([*extremes, *others][:count], dtype=np.int64)


def survival(F: FloatArray, G: FloatArray, n: int) -> IndexArray:
    """Return exactly ``min(n, N)`` distinct indices of the rows that survive, best first.

    Feasible rows come before infeasible ones. Feasible rows are ordered by error (one objective), by rank and crowding
    distance (two) or by reference-direction niching (more); infeasible ones by total violation. The best row of each
    objective among the feasible survives if ``n`` allows it.

    Args:
        F: Objectives to minimise, ``[N, n_objectives]``.
        G: Constraints, ``[N, n_limits]``, kept where at most 0.
        n: Number of survivors.
    """
    total = violation(G)
    feasible = np.flatnonzero(total <= 0.0)
    count = min(n, len(feasible))
    if F.shape[1] == 1 or count == 0:
        kept = np.argsort(F[feasible, 0], kind="stable")[:count]
    else:
        kept = _by_crowding(F[feasible], count) if F.shape[1] == 2 else _by_niching(F[feasible], count)
    rest = np.flatnonzero(total > 0.0)
    rest = rest[np.argsort(total[rest], kind="stable")]
    return np.concatenate([feasible[kept], rest[: max(0, n - count)]]).astype(np.int64)


def merge_in_turns(orders: list[IndexArray], n: int) -> IndexArray:
    """Return up to ``n`` distinct indices, taken in turns from several orders of preference."""
    chosen: dict[int, None] = {}
    for position in range(max((len(order) for order in orders), default=0)):
        for order in orders:
            if position < len(order) and len(chosen) < n:
                chosen.setdefault(int(order[position]), None)
    return np.array(list(chosen), dtype=np.int64)
