"""Cross-conformal intervals on log residuals, scaled by local spread.

Source: Vovk, "Cross-conformal predictors" (2015); scaled scores after Papadopoulos et al., "Normalized nonconformity
measures for regression conformal prediction" (2008).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwnas.latency.statistics import FloatArray


@dataclass(frozen=True)
class Conformal:
    """Half-widths of intervals on the logarithm.

    Attributes:
        quantile: Score not exceeded by the asked share of rows.
        floor: What is added to the local spread, so that agreement between fold models never means certainty.
        coverage: The share asked for.
    """

    quantile: float
    floor: float
    coverage: float

    @classmethod
    def fit(cls, residuals: FloatArray, spread: FloatArray, coverage: float) -> Conformal:
        """Calibrate on out-of-fold log residuals and local spreads, both ``[n]``."""
        floor = max(float(np.median(np.abs(residuals))), 1e-4)
        scores = np.sort(np.abs(residuals) / (spread + floor))
        rank = int(np.ceil((len(scores) + 1) * coverage))
        return cls(float(scores[min(rank, len(scores)) - 1]), floor, coverage)

    def half_width(self, spread: FloatArray) -> FloatArray:
        """Return the log half-width of the interval, ``[n]``, at local spread ``[n]``."""
        return self.quantile * (spread + self.floor)
