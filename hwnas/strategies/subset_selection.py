"""Which candidates of an inner search are worth a real evaluation: those that fill the gaps along the costs."""

from __future__ import annotations

import numpy as np
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from hwnas.strategies.problem import FloatArray
from hwnas.strategies.sorting import IndexArray, violation


def spread(costs: FloatArray) -> float:
    """Return the largest, over costs, standard deviation of the gaps between neighbours (lower is more even).

    Args:
        costs: Cost values, ``[n, n_costs]``, on one scale.
    """
    if len(costs) < 3 or costs.shape[1] == 0:
        return 0.0
    gaps = np.diff(np.sort(costs, axis=0), axis=0)
    return float(gaps.std(axis=0).max())


def _spreads(base: FloatArray, options: FloatArray) -> FloatArray:
    """Return the spread of ``base`` plus each single row of ``options``, ``[n_options]``."""
    n, m = options.shape
    together = np.concatenate([np.broadcast_to(base, (n, *base.shape)), options.reshape(n, 1, m)], axis=1)
    if together.shape[1] < 3:
        return np.zeros(n)
    gaps = np.diff(np.sort(together, axis=1), axis=1)
    return np.asarray(gaps.std(axis=1).max(axis=1))


def spread_subset(costs: FloatArray, existing: FloatArray, k: int, forced: list[int] | None = None) -> list[int]:
    """Return ``k`` rows of ``costs`` that, joined with ``existing``, minimise :func:`spread`.

    MSuNAS and NAT solve this with a genetic algorithm over binary masks. For the few hundred candidates of an inner
    search, greedy insertion followed by exchanges of single rows until none helps is exact enough (a local optimum under
    exchange), a hundred times faster and free of randomness.

    Args:
        costs: Costs of the candidates, ``[n, n_costs]``.
        existing: Costs of the archive's front, ``[m, n_costs]``.
        k: Rows to choose; all rows where ``k >= n``.
        forced: Rows that are chosen in any case.
    """
    chosen = list(forced or [])[:k]
    fixed = len(chosen)
    if k >= len(costs):
        return [*chosen, *(i for i in range(len(costs)) if i not in chosen)]
    everything = np.vstack([costs, existing])
    width = np.ptp(everything, axis=0)
    scale = np.where(width > 0, width, 1.0)
    costs, existing = costs / scale, existing / scale
    while len(chosen) < k:
        free = [i for i in range(len(costs)) if i not in chosen]
        values = _spreads(np.vstack([existing, costs[chosen]]), costs[free])
        chosen.append(free[int(values.argmin())])
    return _exchange(costs, existing, chosen, fixed)


def _exchange(costs: FloatArray, existing: FloatArray, chosen: list[int], fixed: int, sweeps: int = 20) -> list[int]:
    best = spread(np.vstack([existing, costs[chosen]]))
    for _ in range(sweeps):
        before = best
        for position in range(fixed, len(chosen)):
            free = [i for i in range(len(costs)) if i not in chosen]
            others = [*chosen[:position], *chosen[position + 1 :]]
            values = _spreads(np.vstack([existing, costs[others]]), costs[free])
            if values.min() < best - 1e-12:
                best = float(values.min())
                chosen[position] = free[int(values.argmin())]
        if best >= before - 1e-12:
            break
    return chosen


def select_candidates(F: FloatArray, G: FloatArray, front_costs: FloatArray, k: int) -> IndexArray:
    """Return ``min(k, n)`` distinct rows to evaluate.

    Feasible rows come first: whole non-dominated fronts are taken until at least ``k`` rows are there; among them the
    one of least predicted error is always chosen (a winner is the most accurate network under its budget, the edge that
    evenness alone does not favour) and the rest fill the gaps along the costs. Where too few rows are feasible, those of
    least violation fill up.

    Args:
        F: Predicted error, then costs, ``[n, 1 + n_costs]``.
        G: Constraints, ``[n, n_limits]``.
        front_costs: Costs of the archive's front, ``[m, n_costs]``.
        k: Rows wanted.
    """
    total = violation(G)
    feasible = np.flatnonzero(total <= 0.0)
    rest = np.flatnonzero(total > 0.0)
    rest = rest[np.argsort(total[rest], kind="stable")]
    if len(feasible) <= k:
        return np.concatenate([feasible, rest])[:k].astype(np.int64)
    pool: list[int] = []
    for front in NonDominatedSorting().do(F[feasible]):
        pool.extend(int(i) for i in feasible[np.sort(front)])
        if len(pool) >= k:
            break
    rows = np.array(pool, dtype=np.int64)
    if F.shape[1] == 1:
        return np.asarray(rows[np.argsort(F[rows, 0], kind="stable")[:k]], dtype=np.int64)
    best = int(F[rows, 0].argmin())
    return rows[spread_subset(F[rows, 1:], front_costs, k, forced=[best])]
