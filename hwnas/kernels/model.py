"""The latency model of any network on a target: prices of kernels and calibrated intervals.

A family of networks that it lacks is learned by adding a few of its networks to those it was fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.errors import TableError
from hwnas.kernels.batch import KernelBatch
from hwnas.kernels.physics import CLASSES, classes
from hwnas.kernels.prices import KernelPrices
from hwnas.latency.conformal import Conformal
from hwnas.latency.crossfit import assign_folds
from hwnas.latency.predictor import Prediction
from hwnas.latency.statistics import BoolArray, FloatArray

FOLDS = 5
FEWEST = 20
"""A model is not fitted on fewer networks."""

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of the trees' correction may be believed; out-of-fold error decides."""

_MARGIN = 1.05
_SHARE_MARGIN = 0.02


@dataclass(frozen=True)
class Domain:
    """What was measured: classes of kernels, range of a network's work and of the share of each class in it.

    Attributes:
        classes: Which classes of kernels occurred.
        low: Smallest sums over a network of kernels, work and traffic, ``[5]``.
        high: The largest.
        share: Largest share of each class in a network's predicted latency, ``[classes]``.
    """

    classes: BoolArray
    low: FloatArray
    high: FloatArray
    share: FloatArray

    @classmethod
    def of(cls, batch: KernelBatch, prices: FloatArray) -> Domain:
        """Return the domain of measured networks with the prices of their kernels ``[kernels]``."""
        sums = _work(batch)
        seen = np.zeros(len(CLASSES), dtype=np.bool_)
        seen[classes(batch)] = True
        return cls(seen, sums.min(axis=0), sums.max(axis=0), _shares(batch, prices).max(axis=0))

    def lacks(self, batch: KernelBatch, prices: FloatArray) -> BoolArray:
        """Return which networks lie outside, ``[n]``."""
        sums = _work(batch)
        outside = ((sums * _MARGIN < self.low) | (sums > self.high * _MARGIN)).any(axis=1)
        foreign = batch.sums((~self.classes[classes(batch)]).astype(np.float64)) > 0
        unlike = (_shares(batch, prices) > self.share + _SHARE_MARGIN).any(axis=1)
        return np.asarray(outside | foreign | unlike)


def _work(batch: KernelBatch) -> FloatArray:
    columns = [batch[name] for name in ("macs", "read", "written", "weights")]
    return batch.sums(np.column_stack([np.ones(len(batch.owner)), *columns]))


def _shares(batch: KernelBatch, prices: FloatArray) -> FloatArray:
    """Return the share of each class in the sum of a network's prices, ``[n, classes]``."""
    shares = np.zeros((len(batch), len(CLASSES)))
    np.add.at(shares, (batch.owner, classes(batch)), prices)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class KernelModel:
    """Predicts the median latency of any network whose kernels are known.

    Attributes:
        full: Prices fitted on all networks.
        shrink: Share of the trees' correction that is believed, in [0, 1].
        conformal: Calibration of the intervals; they are wider where the trees had to correct physics more.
        domain: What was measured.
        facts: Plain data about the fit.
    """

    full: KernelPrices
    shrink: float
    conformal: Conformal
    domain: Domain
    facts: dict[str, Any]

    @classmethod
    def fit(
        cls,
        batch: KernelBatch,
        y: FloatArray,
        weights: FloatArray | None = None,
        *,
        seed: int = 0,
        coverage: float = 0.9,
    ) -> KernelModel:
        """Fit on whole networks.

        Args:
            batch: Kernels of ``n`` networks.
            y: Their latencies, ``[n]``.
            weights: Weights of the networks, ``[n]``, in any unit; equal if not given.
            seed: Seed of folds and trees.
            coverage: Share of networks whose latency the interval is to hold.

        Raises:
            TableError: Fewer than 20 networks, or a latency or weight that cannot be one.
        """
        if len(y) < FEWEST:
            raise TableError(f"a kernel model needs at least {FEWEST} measured networks, got {len(y)}.")
        weight = np.ones(len(y)) if weights is None else weights
        for name, values in (("latency", y), ("weight", weight)):
            if len(values) != len(batch):
                raise TableError(f"{len(batch)} networks have {len(values)} values of {name}; give one for each.")
            if len(bad := np.flatnonzero(~(np.isfinite(values) & (values > 0)))):
                raise TableError(
                    f"the {name} of network {bad[0]} is {values[bad[0]]:g}; it must be above 0. Measure it again or leave it out."
                )
        weight = weight / weight.mean()
        fold = assign_folds(len(y), FOLDS, seed)
        trials = {shrink: (np.zeros(len(y)), np.zeros(len(y))) for shrink in SHARES}
        for number in range(FOLDS):
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            priced = KernelPrices.fit(batch.take(inside), y[inside], weight[inside], seed)(batch.take(outside))
            for shrink, (value, shift) in trials.items():
                value[outside], shift[outside] = priced.totals(shrink), priced.shift(shrink)
        errors = {shrink: float(np.mean(weight * np.abs(np.log(y / value)))) for shrink, (value, _) in trials.items()}
        shrink = min(SHARES, key=errors.__getitem__)
        out_of_fold, shift = trials[shrink]
        full = KernelPrices.fit(batch, y, weight, seed)
        facts = {
            "networks": len(y),
            "seed": seed,
            "out_of_fold_mape": float(np.mean(np.abs(out_of_fold / y - 1.0))),
        }
        conformal = Conformal.fit(np.log(y / out_of_fold), shift, coverage)
        return cls(full, shrink, conformal, Domain.of(batch, full(batch).prices(shrink)), facts)

    def predict(self, batch: KernelBatch) -> Prediction:
        """Predict the latency of networks."""
        priced = self.full(batch)
        value = priced.totals(self.shrink)
        half = self.conformal.half_width(priced.shift(self.shrink))
        outside = self.domain.lacks(batch, priced.prices(self.shrink))
        return Prediction(value, value * np.exp(-half), value * np.exp(half), outside)

    def prices(self, batch: KernelBatch) -> FloatArray:
        """Return what each kernel costs, ``[kernels]``; with :attr:`overhead` per network they sum to its latency."""
        return self.full(batch).prices(self.shrink)

    @property
    def overhead(self) -> float:
        """What a network costs beside its kernels."""
        return self.full.physical.constant
