"""High-trade-off members of a front: where a little less of one objective costs much of the others."""

from __future__ import annotations

import numpy as np

from hwnas.strategies.problem import FloatArray
from hwnas.strategies.sorting import IndexArray

EPSILON = 0.125
"""Radius of a member's neighbourhood, in objectives scaled to [0, 1] over the front (NAT, Lu et al. 2021)."""

PICKS = 4


def trade_offs(F: FloatArray, epsilon: float = EPSILON) -> FloatArray:
    """Return the least loss per gain of moving from each member to a neighbour, ``[n]``; a knee has a high one.

    Source: Rachmawati and Srinivasan, "Multiobjective evolutionary algorithm with controllable focus on the knees of the
    Pareto front" (2009), as NAT uses it: neighbours are the members within ``epsilon``, at least the two nearest per objective.

    Args:
        F: Objectives of a front, to minimise, ``[n, n_objectives]``.
        epsilon: Radius, in objectives scaled over the front.
    """
    if not len(F):
        return np.empty(0)
    width = np.ptp(F, axis=0)
    scaled = (F - F.min(axis=0)) / np.where(width > 0.0, width, 1.0)
    return np.array([_least(scaled, i, epsilon) for i in range(len(F))], dtype=np.float64)


def _least(scaled: FloatArray, i: int, epsilon: float) -> float:
    difference = np.delete(scaled, i, axis=0) - scaled[i]
    distance = np.linalg.norm(difference, axis=1)
    order = np.argsort(distance, kind="stable")
    near = order[: max(2 * scaled.shape[1], int((distance <= epsilon).sum()))]
    loss = np.maximum(difference[near], 0.0).sum(axis=1)
    gain = np.maximum(-difference[near], 0.0).sum(axis=1)
    # Who gains nothing by moving is not held down by that neighbour.
    ratios = loss[gain > 0.0] / gain[gain > 0.0]
    return float(ratios.min()) if len(ratios) else np.inf


def high_trade_off(F: FloatArray, count: int = PICKS) -> IndexArray:
    """Return the indices of up to ``count`` members of the highest trade-off, highest first.

    Args:
        F: Objectives of a front, to minimise, ``[n, n_objectives]``.
        count: Members wanted.
    """
    return np.argsort(-trade_offs(F), kind="stable")[:count].astype(np.int64)
