"""What the residual stands on: a non-negative physical model, blended with the lookup table's sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from hwnas.latency.features import PHYSICAL
from hwnas.latency.rows import LatencyRow
from hwnas.latency.statistics import FloatArray

_NOISE_FLOOR = 0.01
_WEIGHT_LIMITS = (0.1, 10.0)
_FLAGGED = {"pressure", "switches", "spikes", "two_speeds", "throttling"}


def row_weights(rows: Sequence[LatencyRow]) -> FloatArray:
    """Return the weight of each row, ``[n]``, mean 1: inverse squared relative half-width, half when disturbed."""
    widths = np.array([row.half_width for row in rows])
    weights = 1.0 / (widths**2 + _NOISE_FLOOR**2)
    weights /= np.median(weights)
    weights *= np.array([0.5 if _FLAGGED & set(row.disturbed) else 1.0 for row in rows])
    weights = np.clip(weights, *_WEIGHT_LIMITS)
    return np.asarray(weights / weights.mean(), dtype=np.float64)


def design(F: FloatArray) -> FloatArray:
    """Return the columns of the physical model, ``[n, 1 + len(PHYSICAL)]``, of features ``F [n, features]``."""
    return np.column_stack([np.ones(len(F)), F[:, : len(PHYSICAL)]])


def fit_physical(F: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """Fit ``y = design(F) @ coefficients``, coefficients non-negative, by weighted relative error.

    Columns that the data cannot tell apart are held by a faint ridge.

    Args:
        F: Features ``[n, features]``.
        y: Latencies ``[n]``.
        weights: Row weights ``[n]``.
    """
    return fit_non_negative(design(F), y, weights)


def fit_non_negative(columns: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """Fit ``y = columns @ coefficients`` as :func:`fit_physical` does, ``[columns]``, on columns ``[n, columns]``."""
    count = columns.shape[1]
    scale = np.maximum(columns.max(axis=0), 1e-12)
    rows = columns / scale / y[:, None] * np.sqrt(weights)[:, None]
    ridge = 1e-3 * np.sqrt(np.mean(rows**2)) * np.sqrt(len(y)) * np.eye(count)
    target = np.concatenate([np.sqrt(weights), np.zeros(count)])
    coefficients, _ = nnls(np.concatenate([rows, ridge]), target, maxiter=50 * count)
    return np.asarray(coefficients / scale, dtype=np.float64)


def blend_weight(first: FloatArray, second: FloatArray, y: FloatArray, weights: FloatArray) -> float:
    """Return the weight in [0, 1] of ``second`` that minimises the weighted relative error of the blend, all ``[n]``."""
    gap = (second - first) / y
    error = 1.0 - first / y
    norm = float(np.sum(weights * gap**2))
    return float(np.clip(np.sum(weights * gap * error) / norm, 0.0, 1.0)) if norm > 0 else 0.0
