"""The latency model of any network on a target: prices of kernels and calibrated intervals.

A family of networks that it lacks is learned by adding a few of its networks to those it was fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xgboost as xgb

from hwnas.errors import TableError
from hwnas.kernels.batch import KernelBatch
from hwnas.kernels.pack_sum import boost
from hwnas.kernels.physics import CLASSES, TERMS, classes, sums_by_class, terms
from hwnas.kernels.prices import KernelPrices, PhysicalPrices
from hwnas.latency.base_models import fit_non_negative
from hwnas.latency.conformal import Conformal
from hwnas.latency.crossfit import assign_folds
from hwnas.latency.predictor import Prediction
from hwnas.latency.statistics import BoolArray, FloatArray
from hwnas.spaces.base import IntArray

FOLDS = 5
FEWEST = 20
"""A model is not fitted on fewer networks."""

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of the trees' correction may be believed; out-of-fold error decides."""

_MARGIN = 1.25
"""How far beyond the largest kernel of its class a kernel may lie and still count as measured."""

_EXTRAPOLATED = 0.05
"""Share of a prediction that may rest on kernels unlike those measured."""

_PLAIN = ("launch", "macs", "read", "written", "weights")
_FEW = 25.0
"""So many networks tell plain terms apart, but nothing else."""
_TINY = 1e-12
_SMALL = 0.3
"""Share of the networks, the fastest, that tell how much a profile adds to a kernel."""
_KEPT = 0.2
_SCALES = (0.3, 3.0)
_WORK = ("macs", "read", "written", "weights")


@dataclass(frozen=True)
class Domain:
    """What kernels were measured: the largest work of each class.

    Attributes:
        largest: Multiply-accumulates and elements read, written and of weights, ``[classes, 4]``; -1 where a class did not occur.
    """

    largest: FloatArray

    @classmethod
    def of(cls, batch: KernelBatch) -> Domain:
        """Return the domain of measured networks."""
        largest = np.full((len(CLASSES), len(_WORK)), -1.0)
        np.maximum.at(largest, classes(batch), _work(batch))
        return cls(largest)

    def extrapolated(self, batch: KernelBatch, prices: FloatArray) -> FloatArray:
        """Return how much of each network is kernels unlike those measured, ``[n]``.

        That is their share of the ``prices [kernels]``, the multiply-accumulates or the traffic, whichever is largest: what an
        unknown kernel costs is unknown.
        """
        largest = self.largest[classes(batch)]
        foreign: BoolArray = np.any((_work(batch) > _MARGIN * largest) | (largest < 0), axis=1)
        weight = np.column_stack([prices, batch["macs"], batch["read"] + batch["written"]])
        total = np.maximum(batch.sums(weight), _TINY)
        return np.asarray((batch.sums(weight * foreign.astype(np.float64)[:, None]) / total).max(axis=1))


def _work(batch: KernelBatch) -> FloatArray:
    return np.column_stack([batch[name] for name in _WORK])


def as_measured(batch: KernelBatch, times: FloatArray, y: FloatArray) -> FloatArray:
    """Return the times of kernels as they are when nobody looks, ``[kernels]``; NaN where they are not known.

    A profile intrudes: every kernel gets a little dearer, which shows where networks are small. What remains between a
    network's sum and its latency is shared out in proportion.

    Args:
        batch: The kernels.
        times: Their profiled times, ``[kernels]``.
        y: Latencies of the networks, ``[n]``.
    """
    known = np.isfinite(times) & (times > 0)
    sums = batch.sums(np.where(known, times, 0.0))
    counts = batch.sums(known.astype(np.float64))
    small = (counts > 0) & (y <= np.quantile(y, _SMALL))
    excess = (sums[small] - y[small]) / counts[small]
    added = max(float(np.median(excess)), 0.0) if len(excess) else 0.0
    clean = np.where(known, np.maximum(times - added, _KEPT * times), 0.0)
    total = batch.sums(clean)
    scale = np.clip(y / np.maximum(total, _TINY), *_SCALES)
    return np.where(known, clean * scale[batch.owner], np.nan)


def plain_prices(batch: KernelBatch, y: FloatArray, weights: FloatArray) -> FloatArray:
    """Return prices of plain terms only, ``[classes, terms]``: fewer than :class:`PhysicalPrices` fits, on as many networks.

    Args:
        batch: Kernels of ``n`` networks.
        y: Their latencies, ``[n]``.
        weights: Weights of the networks, ``[n]``.
    """
    plain = np.array([TERMS.index(name) for name in _PLAIN])
    work = terms(batch, np.inf)[:, plain]
    counted = sums_by_class(batch, work)
    measured = np.asarray(counted.any(axis=(0, 2)))
    prices = np.zeros((len(CLASSES), len(TERMS)))
    own = fit_non_negative(counted[:, measured].reshape(len(batch), -1), y, weights)
    prices[np.ix_(np.flatnonzero(~measured), plain)] = fit_non_negative(batch.sums(work), y, weights)
    prices[np.ix_(np.flatnonzero(measured), plain)] = own.reshape(-1, len(plain))
    return prices


def told_by(networks: int) -> float:
    """Return how far so many networks are believed in what only their sums tell, in [0, 1)."""
    return max(0.0, 1.0 - _FEW / networks)


def fit_prices(
    batch: KernelBatch, y: FloatArray, weights: FloatArray, seed: int, times: FloatArray | None
) -> KernelPrices:
    """Fit as :meth:`KernelPrices.fit` does; where times are not known, few networks are believed plain terms only."""
    if times is not None:
        return KernelPrices.fit(batch, y, weights, seed, times)
    physical, told = PhysicalPrices.fit(batch, y, weights), told_by(len(y))
    table = told * physical.table + (1.0 - told) * plain_prices(batch, y, weights)
    physical = replace(physical, constant=told * physical.constant, table=table)
    return KernelPrices(physical, boost(batch, physical(batch), physical.constant, y, weights, seed))


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
        times: FloatArray | None = None,
        groups: IntArray | None = None,
        seed: int = 0,
        coverage: float = 0.9,
    ) -> KernelModel:
        """Fit on whole networks.

        Args:
            batch: Kernels of ``n`` networks.
            y: Their latencies, ``[n]``.
            weights: Weights of the networks, ``[n]``, in any unit; equal if not given.
            times: Times of the kernels that a runtime's own profile gives, ``[kernels]``, in the unit of ``y``; NaN where not
                known. A network's are brought to sum to its latency (:func:`as_measured`).
            groups: Family of each network, ``[n]``: what is believed and how wide intervals are then follows from families
                that were left out whole, as the networks to predict will be of none of them. Without, folds are random.
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
        own = None if times is None else as_measured(batch, times, y)
        fold = assign_folds(len(y), FOLDS, seed) if groups is None else np.unique(groups, return_inverse=True)[1]
        shares = sorted({(1.0 if times is not None else told_by(len(y))) * share for share in SHARES})
        trials = {shrink: (np.zeros(len(y)), np.zeros(len(y))) for shrink in shares}
        for number in range(int(fold.max()) + 1):
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            taught = None if own is None else own[np.isin(batch.owner, inside)]
            prices = fit_prices(batch.take(inside), y[inside], weight[inside], seed, taught)
            priced = prices(batch.take(outside))
            for shrink, (value, shift) in trials.items():
                value[outside], shift[outside] = priced.totals(shrink), priced.shift(shrink)
        errors = {shrink: float(np.mean(weight * np.abs(np.log(y / value)))) for shrink, (value, _) in trials.items()}
        shrink = min(shares, key=errors.__getitem__)
        out_of_fold, shift = trials[shrink]
        full = fit_prices(batch, y, weight, seed, own)
        facts = {
            "networks": len(y),
            "seed": seed,
            "out_of_fold_mape": float(np.mean(np.abs(out_of_fold / y - 1.0))),
        }
        conformal = Conformal.fit(np.log(y / out_of_fold), shift, coverage)
        return cls(full, shrink, conformal, Domain.of(batch), facts)

    def predict(self, batch: KernelBatch) -> Prediction:
        """Predict the latency of networks."""
        priced = self.full(batch)
        value = priced.totals(self.shrink)
        half = self.conformal.half_width(priced.shift(self.shrink))
        foreign = self.domain.extrapolated(batch, priced.prices(self.shrink))
        return Prediction(value, value * np.exp(-half), value * np.exp(half), foreign > _EXTRAPOLATED)

    def prices(self, batch: KernelBatch) -> FloatArray:
        """Return what each kernel costs, ``[kernels]``; with :attr:`overhead` per network they sum to its latency."""
        return self.full(batch).prices(self.shrink)

    @property
    def overhead(self) -> float:
        """What a network costs beside its kernels."""
        return self.full.physical.constant

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data of everything but the trees."""
        physical = self.full.physical
        return {
            "constant": physical.constant,
            "near": physical.near,
            "fine": physical.fine,
            "prices": physical.table.tolist(),
            "shrink": self.shrink,
            "conformal": vars(self.conformal),
            "largest": self.domain.largest.tolist(),
            "facts": self.facts,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any], booster: xgb.Booster) -> KernelModel:
        """Read what :meth:`as_dict` wrote, with its trees."""
        table = np.array(raw["prices"], dtype=np.float64).reshape(len(CLASSES), len(TERMS))
        physical = PhysicalPrices(float(raw["constant"]), table, float(raw["near"]), bool(raw["fine"]))
        largest = np.array(raw["largest"], dtype=np.float64).reshape(len(CLASSES), len(_WORK))
        prices = KernelPrices(physical, booster)
        return cls(prices, float(raw["shrink"]), Conformal(**raw["conformal"]), Domain(largest), raw["facts"])
