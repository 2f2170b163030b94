"""Which members of a finished search are worth fine-tuning and exporting."""

from __future__ import annotations

import numpy as np

from hwnas.errors import BudgetError
from hwnas.strategies.archive import Member, front, objectives_of
from hwnas.strategies.problem import FloatArray, Problem, View
from hwnas.strategies.state import SearchResult

EPSILON = 0.125


def trade_off(F: FloatArray, epsilon: float = EPSILON) -> FloatArray:
    """Return, for each row of a front, what its neighbours give up per unit they gain, ``[n]`` (higher is better).

    Rachmawati and Srinivasan (2009), as in pymoo's ``HighTradeoffPoints``: the least ratio of sacrifice to gain over
    neighbours within ``epsilon`` of the normalised objectives, and at least the ``2 x n_objectives`` nearest.

    Args:
        F: Non-dominated objectives, ``[n, n_objectives]``.
        epsilon: Radius of the neighbourhood.
    """
    width = np.ptp(F, axis=0)
    N = (F - F.min(axis=0)) / np.where(width > 0, width, 1.0)
    result = np.zeros(len(N))
    for i in range(len(N)):
        difference = np.delete(N, i, axis=0) - N[i]
        distance = np.linalg.norm(difference, axis=1)
        nearest = np.argsort(distance, kind="stable")[: 2 * F.shape[1]]
        near = difference[np.union1d(np.flatnonzero(distance <= epsilon), nearest)]
        gain = np.maximum(-near, 0.0).sum(axis=1)
        sacrifice = np.maximum(near, 0.0).sum(axis=1)
        ratios = sacrifice[gain > 0] / gain[gain > 0]
        result[i] = ratios.min() if len(ratios) else 0.0
    return result


def _view_winners(members: list[Member], view: View, count: int) -> list[Member]:
    best = front(members, view)
    chosen = best[:1]
    others = best[1:]
    if others:
        F, _ = objectives_of(best, view)
        order = np.argsort(-trade_off(F)[1:], kind="stable")
        chosen += [others[int(i)] for i in order[: count - 1]]
    return chosen[:count]


def winners(result: SearchResult, problem: Problem, count: int) -> dict[str, list[Member]]:
    """Choose members for fine-tuning and export, per view (target).

    The first is the feasible member of highest validation accuracy (upper end of its cost within every limit; ties go to
    the cheaper one); then the points of the front with the highest trade-off follow.

    Args:
        result: A search's result.
        problem: Its problem.
        count: Largest number per view; fewer where the front is shorter.

    Raises:
        BudgetError: No evaluated member keeps the limits of a view.
    """
    chosen: dict[str, list[Member]] = {}
    for view in problem.views:
        chosen[view.name] = _view_winners(result.members, view, count)
        if not chosen[view.name]:
            limits = ", ".join(f"{problem.limits[i].maximum:g} {problem.limits[i].unit}" for i in view.limits)
            raise BudgetError(
                f"none of the {len(result.members)} evaluated architectures keeps the budget of {view.name} ({limits}). "
                "Search longer (search.iterations), or raise the budget."
            )
    return chosen
