"""Whether limits can be kept at all, said before anything is trained or evaluated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import BudgetError
from hwnas.spaces.base import IntArray, unique_rows

if TYPE_CHECKING:
    from hwnas.strategies.problem import Limit, Problem, View


def check_budgets(problem: Problem, samples: int = 256, seed: int = 0) -> None:
    """Raise if no architecture keeps a limit, or none keeps all limits of some view together.

    The smallest architecture and random ones are tried; where none of them will do, the best is walked downhill, gene by gene.

    Args:
        problem: Space, costs and limits.
        samples: Random architectures that are tried beside the smallest.
        seed: Seed of those.

    Raises:
        BudgetError: Which limit nothing keeps, by how much, and the nearest one that can be kept.
    """
    if not problem.limits:
        return
    drawn = problem.space.sample(np.random.default_rng(seed), samples)
    X = np.vstack([problem.smallest()[None], drawn])
    upper = problem.costs(X).upper
    lowest = [_lowest(problem, X, column) for column in range(len(problem.limits))]
    broken = [
        _unreachable(limit, float(upper[0, i]), lowest[i])
        for i, limit in enumerate(problem.limits)
        if lowest[i] > limit.maximum
    ]
    if broken:
        raise BudgetError(" ".join(broken))
    for view in problem.views:
        _check_together(problem, view, X)


def _lowest(problem: Problem, X: IntArray, column: int) -> float:
    """Return the least value of one limited cost, of ``X`` or, where none keeps the limit, below it."""
    G = problem.costs(X).G[:, [column]]
    if G.min() > 0.0:
        X = descend(problem, X[int(G[:, 0].argmin())], (column,))[None]
    return float(problem.costs(X).upper[:, column].min())


def _check_together(problem: Problem, view: View, X: IntArray) -> None:
    columns = list(view.limits)
    if len(columns) < 2 or view.feasible(problem.costs(X).G).any():
        return
    excess = np.maximum(problem.costs(X).G[:, columns], 0.0).sum(axis=1)
    best = problem.costs(descend(problem, X[int(excess.argmin())], view.limits)[None])
    if view.feasible(best.G)[0]:
        return
    worst = max(columns, key=lambda column: best.G[0, column])
    limit, reached = problem.limits[worst], float(best.upper[0, worst])
    raise BudgetError(
        f"No architecture found keeps the budgets of {', '.join(str(problem.limits[i]) for i in columns)} together"
        + (f" for {view.name}" if problem.targets else "")
        + f". The closest breaks {limit}: up to {reached:.4g} {limit.unit}, {100 * best.G[0, worst]:.1f} % above it. "
        f"Raise that budget to {round_up(reached):g} {limit.unit}, or loosen another."
    )


def descend(problem: Problem, row: IntArray, columns: tuple[int, ...]) -> IntArray:
    """Return an architecture reached from ``row`` by changes of single genes, each the one that lowers the excess most.

    Args:
        problem: Space, costs and limits.
        row: Canonical encoding, ``[n_genes]``.
        columns: Columns of ``Costs.G`` whose positive parts, added up, are the excess.
    """

    def excess(X: IntArray) -> NDArray[np.float64]:
        return np.asarray(np.maximum(problem.costs(X).G[:, list(columns)], 0.0).sum(axis=1))

    best = float(excess(row[None])[0])
    while best > 0.0:
        near = _neighbours(problem, row)
        values = excess(near)
        if values.min() >= best:
            break
        best, row = float(values.min()), near[int(values.argmin())]
    return row


def _neighbours(problem: Problem, row: IntArray) -> IntArray:
    """Return the canonical forms of all changes of one gene, ``[n, n_genes]``."""
    space = problem.space
    changed = []
    for gene, (low, high) in enumerate(zip(space.lower, space.upper, strict=True)):
        for value in range(int(low), int(high) + 1):
            changed.append(row.copy())
            changed[-1][gene] = value
    return unique_rows(space.repair(np.stack(changed)))


def round_up(value: float, digits: int = 3) -> float:
    """Return ``value`` rounded up to ``digits`` significant digits."""
    step = 10.0 ** (np.floor(np.log10(value)) - digits + 1)
    return float(f"{np.ceil(value / step * (1 - 1e-12)) * step:.{digits}g}")


def _unreachable(limit: Limit, smallest: float, cheapest: float) -> str:
    over = 100.0 * (cheapest / limit.maximum - 1.0)
    return (
        f"No architecture of the space keeps the budget of {limit}: the smallest is predicted at up to {smallest:.4g} "
        f"{limit.unit}, the cheapest found at up to {cheapest:.4g} {limit.unit}, {over:.1f} % above it. The nearest budget "
        f"that can be kept is {round_up(cheapest):g} {limit.unit}; "
        "raise the budget to that, or choose a smaller space (resolutions, widths, depths)."
    )
