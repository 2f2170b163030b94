"""Hypervolume of the feasible set against a reference point that stays fixed for a run."""

from __future__ import annotations

import numpy as np
from pymoo.indicators.hv import HV

from hwnas.strategies.problem import FloatArray
from hwnas.strategies.sorting import violation

MARGIN = 1.01


def reference_point(F: FloatArray, G: FloatArray) -> FloatArray:
    """Return ``1.01 x`` the largest value of each objective among the feasible rows (all rows if none is feasible).

    Args:
        F: Objectives to minimise, ``[n, n_objectives]``, not negative.
        G: Constraints, ``[n, n_limits]``.
    """
    feasible = violation(G) <= 0.0
    rows = F[feasible] if feasible.any() else F
    return np.asarray(np.maximum(rows.max(axis=0), 1e-9) * MARGIN, dtype=np.float64)


def normalised_hypervolume(F: FloatArray, G: FloatArray, reference: FloatArray) -> float:
    """Return the volume that the feasible rows dominate below ``reference``, as a share of ``prod(reference)``; exact.

    A test bounds the time that 300 rows take in six objectives, the most that a view has.

    Args:
        F: Objectives to minimise, ``[n, n_objectives]``, not negative.
        G: Constraints, ``[n, n_limits]``; infeasible rows count nothing.
        reference: Fixed reference point, ``[n_objectives]``.
    """
    rows = F[violation(G) <= 0.0] / reference
    rows = rows[(rows < 1.0).all(axis=1)]
    if not len(rows):
        return 0.0
    if F.shape[1] == 1:
        return float(1.0 - rows.min())
    return float(HV(ref_point=np.ones(F.shape[1]))(rows))
