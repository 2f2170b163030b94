"""Prices of kernels on a target: non-negative physics, times what trees learned from whole networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xgboost as xgb

from hwnas.kernels.batch import KernelBatch
from hwnas.kernels.pack_sum import boost, corrections
from hwnas.kernels.physics import CLASSES, NEAR, NEAR_FINE, TERMS, classes, sums_by_class, terms
from hwnas.latency.base_models import fit_non_negative
from hwnas.latency.statistics import FloatArray

_TINY = 1e-9
_FEWEST = 8
"""Kernels of a class whose times must be known for prices of its own."""


@dataclass(frozen=True)
class PhysicalPrices:
    """A price for every term of every class, none negative.

    Attributes:
        constant: What a network costs beside its kernels.
        table: Price per unit of each term, ``[classes, terms]``; classes that were not measured have the general prices.
        near: Size of the device's near memory in elements, the one of :data:`~hwnas.kernels.physics.NEAR_FINE` that fits best.
        fine: Whether all classes are told apart, and what a network too large for near memory pays.
    """

    constant: float
    table: FloatArray
    near: float
    fine: bool = False

    @classmethod
    def fit(
        cls, batch: KernelBatch, y: FloatArray, weights: FloatArray, times: FloatArray | None = None
    ) -> PhysicalPrices:
        """Fit on latencies ``y [n]`` of networks by weighted relative error, ``weights [n]``.

        With ``times [kernels]``, each class is fitted on those of its own kernels (NaN: not known) instead of on sums.
        """
        if times is None:
            found = [cls._fit(batch, y, weights, near) for near in NEAR]
        else:
            found = [
                cls._fit_times(batch, times, (times / y[batch.owner]) * weights[batch.owner], near)
                for near in NEAR_FINE
            ]
        errors = [float(np.mean(weights * np.abs(prices.totals(batch) / y - 1.0))) for prices in found]
        return found[int(np.argmin(errors))]

    @classmethod
    def _fit(cls, batch: KernelBatch, y: FloatArray, weights: FloatArray, near: float) -> PhysicalPrices:
        work = terms(batch, near)
        general = _fit(batch.sums(work), y, weights)
        counted = sums_by_class(batch, work)
        fitted = _fit(counted.reshape(len(batch), -1), y, weights)
        measured = counted.any(axis=(0, 2))
        table = fitted[1:].reshape(len(CLASSES), len(TERMS))
        return cls(float(fitted[0]), np.where(np.asarray(measured)[:, None], table, general[1:]), near)

    @classmethod
    def _fit_times(cls, batch: KernelBatch, times: FloatArray, weights: FloatArray, near: float) -> PhysicalPrices:
        kind, work, known = classes(batch, True), terms(batch, near, True), np.isfinite(times)
        general = fit_non_negative(work[known], times[known], weights[known])
        table = np.tile(general, (len(CLASSES), 1))
        for number in range(len(CLASSES)):
            own = known & (kind == number)
            if own.sum() >= _FEWEST:
                table[number] = fit_non_negative(work[own], times[own], weights[own])
        return cls(0.0, table, near, True)

    def __call__(self, batch: KernelBatch) -> FloatArray:
        """Return the price of every kernel, ``[kernels]``."""
        price = (terms(batch, self.near, self.fine) * self.table[classes(batch, self.fine)]).sum(axis=1)
        return np.asarray(np.maximum(price, _TINY))

    def totals(self, batch: KernelBatch) -> FloatArray:
        """Return the latency of every network, ``[n]``."""
        return batch.sums(self(batch)) + self.constant


def _fit(columns: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """Return a constant's and the columns' non-negative prices, ``[1 + columns]``; 0 of columns that hold nothing."""
    full = np.column_stack([np.ones(len(y)), columns])
    used = full.max(axis=0) > 0
    result = np.zeros(full.shape[1])
    result[used] = fit_non_negative(full[:, used], y, weights)
    return result


@dataclass(frozen=True)
class Priced:
    """The kernels of networks with both parts of their prices.

    Attributes:
        batch: The kernels.
        physical: What physics says each costs, ``[kernels]``.
        correction: What the trees add to its logarithm, ``[kernels]``.
        constant: What a network costs beside its kernels.
    """

    batch: KernelBatch
    physical: FloatArray
    correction: FloatArray
    constant: float

    def prices(self, shrink: float) -> FloatArray:
        """Return the price of every kernel, ``[kernels]``, with a share ``shrink`` of the correction."""
        return self.physical * np.exp(shrink * self.correction)

    def totals(self, shrink: float) -> FloatArray:
        """Return the latency of every network, ``[n]``."""
        return self.batch.sums(self.prices(shrink)) + self.constant

    def shift(self, shrink: float) -> FloatArray:
        """Return by how much, as a logarithm, the trees change what physics says of each network, ``[n]``."""
        return np.asarray(np.abs(np.log(self.totals(shrink) / self.totals(0.0))))


@dataclass(frozen=True)
class KernelPrices:
    """Fitted prices.

    Attributes:
        physical: What physics says.
        booster: Trees on the logarithm of what it leaves.
    """

    physical: PhysicalPrices
    booster: xgb.Booster

    @classmethod
    def fit(
        cls,
        batch: KernelBatch,
        y: FloatArray,
        weights: FloatArray,
        seed: int = 0,
        times: FloatArray | None = None,
    ) -> KernelPrices:
        """Fit on latencies ``y [n]`` of whole networks with ``weights [n]``, and ``times [kernels]`` where they are known."""
        physical = PhysicalPrices.fit(batch, y, weights, times)
        return cls(physical, boost(batch, physical(batch), physical.constant, y, weights, seed, times))

    def __call__(self, batch: KernelBatch) -> Priced:
        """Return the kernels of networks with both parts of their prices, in the unit of the latencies."""
        return Priced(batch, self.physical(batch), corrections(self.booster, batch), self.physical.constant)
