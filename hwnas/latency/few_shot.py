"""Two ways to know a device from few measurements, blended: by other devices (kriging) and by physics alone.

The physical model of the few rows takes part only where it predicts left-out networks better than the other devices do: a
device unlike all known ones, or one that physics describes exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.latency.base_models import design, fit_physical
from hwnas.latency.kriging import Kriging, Scaling
from hwnas.latency.statistics import MAD_SCALE, FloatArray

_CAP = 3.0
"""Left-out residuals count up to so many robust standard deviations when the weight is chosen."""


@dataclass(frozen=True)
class FewShot:
    """The fitted blend.

    Attributes:
        kriging: From the known devices.
        coefficients: Of the physical model, ``[1 + features]``.
        own_weight: Weight of the physical model in [0, 1]; 0 if it predicts worse.
        own_spread: Standard deviation of its log residuals.
        left_out: Log residuals of the measured networks, each predicted from the others, ``[n]``.
        left_out_spread: Their predicted standard deviations, ``[n]``.
    """

    kriging: Kriging
    coefficients: FloatArray
    own_weight: float
    own_spread: float
    left_out: FloatArray
    left_out_spread: FloatArray

    @classmethod
    def fit(
        cls, sources: Scaling, features: Scaling, S: FloatArray, F: FloatArray, y: FloatArray, weights: FloatArray
    ) -> FewShot:
        """Fit on measured networks.

        Args:
            sources: Scaling of the known devices' log latencies over a sample of the space.
            features: Scaling of ``log1p`` of the physical features over it.
            S: Log latencies on the known devices, ``[n, sources]``.
            F: Physical features, ``[n, features]``.
            y: Measured latencies, ``[n]``.
            weights: Row weights of the physical model, ``[n]``.

        Raises:
            ValueError: Fewer networks than :data:`hwnas.latency.kriging.FEWEST`.
        """
        kriging = Kriging.fit(sources, features, S, np.log1p(F), np.log(y))
        without = [np.delete(np.arange(len(y)), index) for index in range(len(y))]
        predicted = [
            _physical(fit_physical(F[rest], y[rest], weights[rest]), F[[index]])[0]
            for index, rest in enumerate(without)
        ]
        own = np.log(y) - np.array(predicted)
        weight = _own_weight(kriging.left_out, own)
        # A network's residual must not have chosen its own weight: intervals are calibrated on these residuals.
        honest = np.array([_own_weight(kriging.left_out[rest], own[rest]) for rest in without])
        spread = max(MAD_SCALE * float(np.median(np.abs(own))), 1e-4)
        return cls(
            kriging=kriging,
            coefficients=fit_physical(F, y, weights),
            own_weight=weight,
            own_spread=spread,
            left_out=(1.0 - honest) * kriging.left_out + honest * own,
            left_out_spread=(1.0 - honest) * kriging.left_out_spread + honest * spread,
        )

    def predict(self, S: FloatArray, F: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return log latencies and their standard deviations, both ``[n]``, of ``S`` and ``F`` as for :meth:`fit`."""
        value, spread = self.kriging.predict(S, np.log1p(F))
        if self.own_weight == 0:
            return value, spread
        weight = self.own_weight
        return (1.0 - weight) * value + weight * _physical(self.coefficients, F), (
            1.0 - weight
        ) * spread + weight * self.own_spread

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for :meth:`from_dict`; the left-out residuals are not kept."""
        return {
            "kriging": self.kriging.as_dict(),
            "coefficients": self.coefficients.tolist(),
            "own_weight": self.own_weight,
            "own_spread": self.own_spread,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> FewShot:
        """Read what :meth:`as_dict` returned."""
        coefficients = np.asarray(raw["coefficients"], dtype=np.float64)
        return cls(
            Kriging.from_dict(raw["kriging"]),
            coefficients,
            float(raw["own_weight"]),
            float(raw["own_spread"]),
            *np.zeros((2, 0)),
        )


def _physical(coefficients: FloatArray, F: FloatArray) -> FloatArray:
    return np.log(np.maximum(design(F) @ coefficients, 1e-12))


def _own_weight(others: FloatArray, own: FloatArray) -> float:
    """Return the weight in [0, 1] of ``own`` residuals that makes the blend's smallest, both ``[n]``; 0 if they are larger."""
    if np.median(np.abs(own)) >= np.median(np.abs(others)):
        return 0.0
    cap = _CAP * MAD_SCALE * float(np.median(np.abs(others)))
    first, second = np.clip(others, -cap, cap), np.clip(own, -cap, cap)
    gap = second - first
    return float(np.clip(-np.sum(first * gap) / np.sum(gap**2), 0.0, 1.0))
