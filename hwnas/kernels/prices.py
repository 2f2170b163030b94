"""Prices of kernels on a target: non-negative physics, times what trees learned from whole networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xgboost as xgb
from scipy.optimize import nnls

from hwnas.kernels.batch import KernelBatch
from hwnas.kernels.pack_sum import boost, corrections
from hwnas.kernels.physics import CLASSES, NEAR, TERMS, classes, terms
from hwnas.latency.statistics import BoolArray, FloatArray

_RIDGE = 1e-3
_TINY = 1e-9


@dataclass(frozen=True)
class PhysicalPrices:
    """A price for every term of every class, none negative.

    Attributes:
        constant: What a network costs beside its kernels.
        table: Price per unit of each term, ``[classes, terms]``; classes that were not measured have the general prices.
        measured: Which classes were measured, ``[classes]``.
        near: Size of the device's near memory in elements, the one of :data:`~hwnas.kernels.physics.NEAR` that fits best.
    """

    constant: float
    table: FloatArray
    measured: BoolArray
    near: float

    @classmethod
    def fit(cls, batch: KernelBatch, y: FloatArray, weights: FloatArray) -> PhysicalPrices:
        """Fit on latencies ``y [n]`` of networks by weighted relative error, ``weights [n]``."""
        found = [cls._fit(batch, y, weights, near) for near in NEAR]
        errors = [float(np.mean(weights * np.abs(prices.totals(batch) / y - 1.0))) for prices in found]
        return found[int(np.argmin(errors))]

    @classmethod
    def _fit(cls, batch: KernelBatch, y: FloatArray, weights: FloatArray, near: float) -> PhysicalPrices:
        kind, work = classes(batch), terms(batch, near)
        general = _fit(np.column_stack([batch.sums(column) for column in work.T]), y, weights)
        counted = np.zeros((len(batch), len(CLASSES), len(TERMS)))
        np.add.at(counted, (batch.owner, kind), work)
        fitted = _fit(counted.reshape(len(batch), -1), y, weights)
        measured = np.asarray(counted.any(axis=(0, 2)))
        table = fitted[1:].reshape(len(CLASSES), len(TERMS))
        return cls(float(fitted[0]), np.where(measured[:, None], table, general[1:]), measured, near)

    def __call__(self, batch: KernelBatch) -> FloatArray:
        """Return the price of every kernel, ``[kernels]``."""
        price = (terms(batch, self.near) * self.table[classes(batch)]).sum(axis=1)
        return np.asarray(np.maximum(price, _TINY))

    def totals(self, batch: KernelBatch) -> FloatArray:
        """Return the latency of every network, ``[n]``."""
        return batch.sums(self(batch)) + self.constant


def _fit(columns: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """Return a constant's and the columns' non-negative prices, ``[1 + columns]``; a faint ridge tells equals apart."""
    full = np.column_stack([np.ones(len(y)), columns])
    scale = full.max(axis=0)
    used = scale > 0
    root = np.sqrt(weights)
    rows = full[:, used] / scale[used] / y[:, None] * root[:, None]
    ridge = _RIDGE * np.sqrt(np.mean(rows**2)) * np.sqrt(len(y)) * np.eye(rows.shape[1])
    found, _ = nnls(
        np.concatenate([rows, ridge]), np.concatenate([root, np.zeros(rows.shape[1])]), maxiter=50 * rows.shape[1]
    )
    result = np.zeros(full.shape[1])
    result[used] = found / scale[used]
    return result


@dataclass(frozen=True)
class KernelPrices:
    """Fitted prices.

    Attributes:
        physical: What physics says.
        booster: Trees on the logarithm of what it leaves.
        shrink: Share of the trees' correction that is believed, in [0, 1].
    """

    physical: PhysicalPrices
    booster: xgb.Booster
    shrink: float = 1.0

    @classmethod
    def fit(cls, batch: KernelBatch, y: FloatArray, weights: FloatArray, seed: int = 0) -> KernelPrices:
        """Fit on latencies ``y [n]`` of whole networks with ``weights [n]``; the trees are believed in full."""
        physical = PhysicalPrices.fit(batch, y, weights)
        return cls(physical, boost(batch, physical(batch), physical.constant, y, weights, seed))

    def __call__(self, batch: KernelBatch) -> FloatArray:
        """Return the price of every kernel, ``[kernels]``, in the unit of the latencies."""
        price = self.physical(batch)
        if self.shrink > 0:
            price = price * np.exp(self.shrink * corrections(self.booster, batch))
        return np.asarray(price)

    def totals(self, batch: KernelBatch) -> FloatArray:
        """Return the latency of every network, ``[n]``."""
        return batch.sums(self(batch)) + self.physical.constant
