"""The block lookup table: what each block of a space contributes to a network's latency.

Kernel times are asked of the runtime inside the whole network (isolated blocks pay overheads the network pays once) and
summed per block. A profile intrudes, so a network's kernel times are scaled to its measured latency. These prices, or where
no kernels were profiled those of the physical model, are then the prior of a non-negative fit to whole-network latencies:
enough networks overrule it, few do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg
from scipy.optimize import nnls

from hwnas.latency.features import PHYSICAL, FeatureExtractor
from hwnas.latency.indexing import ABSENT, Ids
from hwnas.latency.rows import LatencyRow, encodings_of, latencies_of
from hwnas.latency.statistics import BoolArray, FloatArray

OVERHEAD = ""
"""Block name of kernels that belong to no block."""

_STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
_SCALE_LIMITS = (0.2, 1.5)
_FOLDS = 4
_SMALLEST_FACTOR = 0.05
_SMALLEST_PRIOR = 0.01
"""Share of an equal part of the latency that a block is taken to cost at least where only physics tells."""
_ACTIVE_SETS = 6


@dataclass(frozen=True)
class BlockPrices:
    """Latency contribution per block key.

    Attributes:
        keys: Block keys with a price of their own.
        prices: Their prices, ``[len(keys)]``, in the table's unit.
        overhead: What every network pays once.
        fallback: Price of a block of an unseen key as non-negative weights of its physical features.
        strength: Weight of the kernel-time prior that cross-validation chose.
        physical: Physical features of the keys, ``[len(keys), features]``: prices of unseen blocks lie between those of
            smaller and larger ones.
    """

    keys: tuple[str, ...]
    prices: FloatArray
    overhead: float
    fallback: FloatArray
    strength: float
    physical: FloatArray

    def price_list(self, extractor: FeatureExtractor) -> tuple[FloatArray, BoolArray]:
        """Return the price of every block key of the extractor and whether it is a guess, each ``[keys]``.

        A key that was never profiled is priced by its physical features, within what the prices of smaller and larger
        blocks allow; never zero, since its features are not.
        """
        known = dict(zip(self.keys, self.prices, strict=True))
        keys, physical = extractor.indexer.keys, extractor.physical()
        missing = np.array([key not in known for key in keys], dtype=np.bool_)
        prices = np.array([known.get(key, 0.0) for key in keys])
        if missing.any():
            low, high = bounds(comparable(physical[missing]), comparable(self.physical), self.prices)
            prices[missing] = np.clip(physical[missing] @ self.fallback, low, high)
        return prices, missing

    def sums(self, extractor: FeatureExtractor, ids: Ids) -> tuple[FloatArray, BoolArray]:
        """Return the summed price of architectures and whether any of their blocks is a guess, each ``[n]``.

        Args:
            extractor: Extractor whose ids are used.
            ids: Block-key ids ``[n, positions]``.
        """
        prices, missing = self.price_list(extractor)
        padded, unseen = np.append(prices, 0.0), np.append(missing, False)
        cells = np.where(ids == ABSENT, len(prices), ids)
        return self.overhead + padded[cells].sum(axis=1), np.asarray(unseen[cells].any(axis=1), dtype=np.bool_)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "prices": {key: float(price) for key, price in zip(self.keys, self.prices, strict=True)},
            "overhead": self.overhead,
            "fallback": [float(weight) for weight in self.fallback],
            "strength": self.strength,
            "physical": dict(zip(self.keys, self.physical.tolist(), strict=True)),
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> BlockPrices:
        """Read what :meth:`as_dict` wrote."""
        keys = tuple(raw["prices"])
        prices = np.array([raw["prices"][key] for key in keys], dtype=np.float64)
        fallback = np.array(raw["fallback"], dtype=np.float64)
        physical = np.array([raw["physical"][key] for key in keys], dtype=np.float64).reshape(len(keys), len(fallback))
        return cls(keys, prices, float(raw["overhead"]), fallback, float(raw["strength"]), physical)


def comparable(physical: FloatArray) -> FloatArray:
    """Return physical features ``[k, features]`` with two columns more by which no block without weights is less than one with.

    A pooling asks less of everything than a convolution of its size does, and can still take longer.
    """
    weighted = physical[:, PHYSICAL.index("weight_bytes")] > 0
    return np.column_stack([physical, weighted, ~weighted])


def bounds(asked: FloatArray, physical: FloatArray, prices: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return between which prices blocks must lie for more work never to cost less, each ``[m]``.

    Args:
        asked: Physical features of the blocks, ``[m, features]``.
        physical: Those of priced blocks, ``[k, features]``.
        prices: Their prices, ``[k]``.
    """
    low, high = np.zeros(len(asked)), np.full(len(asked), np.inf)
    for i, row in enumerate(asked):
        smaller, larger = np.all(physical <= row, axis=1), np.all(physical >= row, axis=1)
        low[i] = prices[smaller].max(initial=0.0)
        high[i] = prices[larger].min(initial=np.inf)
    return low, high


def monotone(physical: FloatArray, prices: FloatArray) -> FloatArray:
    """Return prices ``[k]`` that never fall where every physical feature ``[k, features]`` grows.

    They lie halfway between the dearest of the smaller blocks and the cheapest of the larger ones, each block itself among
    both; prices that are monotone already stay.
    """
    low, high = bounds(physical, physical, prices)
    return (low + high) / 2.0


def kernel_prices(rows: Sequence[LatencyRow], extractor: FeatureExtractor, ids: Ids) -> tuple[dict[int, float], float]:
    """Return the median kernel time per block-key id and the median overhead, from the rows that were profiled.

    Args:
        rows: Measured rows; those without kernel times are passed over.
        extractor: Extractor whose ids are used.
        ids: Block-key ids of the rows, ``[n, positions]``.
    """
    samples: dict[int, list[float]] = {}
    overheads: list[float] = []
    own = set(extractor.indexer.positions)
    for row, row_ids in zip(rows, ids, strict=True):
        total = sum(row.kernels.values())
        if total <= 0:
            continue
        scale = float(np.clip(row.latency / total, *_SCALE_LIMITS))
        named = sum(value for name, value in row.kernels.items() if name in own)
        overheads.append(max(row.latency - scale * named, 0.0))
        for position, key in zip(extractor.indexer.positions, row_ids, strict=True):
            if key != ABSENT and position in row.kernels:
                samples.setdefault(int(key), []).append(scale * row.kernels[position])
    prices = {key: float(np.median(values)) for key, values in samples.items()}
    return prices, float(np.median(overheads)) if overheads else 0.0


def fit_fallback(physical: FloatArray, prices: FloatArray) -> FloatArray:
    """Return non-negative weights that give block prices from physical features, fitted to relative error.

    Args:
        physical: Features of the priced blocks, ``[k, features]``.
        prices: Their prices, ``[k]``, positive.
    """
    scale = np.maximum(physical.max(axis=0), 1e-12)
    design = physical / scale / prices[:, None]
    ridge = 1e-3 * np.eye(physical.shape[1]) * float(np.sqrt(np.mean(design**2)))
    weights, _ = nnls(np.concatenate([design, ridge]), np.concatenate([np.ones(len(prices)), np.zeros(len(ridge))]))
    return np.asarray(weights / scale, dtype=np.float64)


def _counts(ids: Ids, columns: dict[int, int]) -> FloatArray:
    counts = np.zeros((len(ids), len(columns)))
    for row, row_ids in enumerate(ids):
        for key in row_ids:
            if key != ABSENT:
                counts[row, columns[int(key)]] += 1.0
    return counts


@dataclass(frozen=True)
class _Shares:
    """What blocks contribute to networks at their prior prices, as shares of the measured latencies times root weights.

    Attributes:
        design: Of every block key, and of the overhead last, ``[n, blocks + 1]``.
        gram: ``design @ design.T``; there are more blocks than networks, so that it is the smaller one to work with.
        root: Root of each network's weight, ``[n]``: what its shares should sum to.
    """

    design: FloatArray
    gram: FloatArray
    root: FloatArray

    @classmethod
    def of(cls, counts: FloatArray, prior: FloatArray, start: float, y: FloatArray, root: FloatArray) -> _Shares:
        design = np.column_stack([counts * prior, np.full(len(y), start)]) * (root / y)[:, None]
        return cls(design, design @ design.T, root)

    def take(self, rows: BoolArray) -> _Shares:
        return _Shares(self.design[rows], self.gram[np.ix_(rows, rows)], self.root[rows])

    def factors(self, strength: float) -> FloatArray:
        """Return factors of the prior prices, and of the overhead last, ``[blocks + 1]``.

        Ridge regression of relative error, each factor drawn towards one common factor; it is solved in its ``n x n``
        dual. Factors below a small share of the common one are set to that and the rest solved again, so that no block
        is ever free or costs less than nothing.
        """
        common = float(np.sum(self.root) / np.sum(self.design))
        factors = np.full(self.design.shape[1], common)
        free = np.ones(self.design.shape[1], dtype=np.bool_)
        pull = (strength / len(self.root)) * np.eye(len(self.root))
        for _ in range(_ACTIVE_SETS):
            factors[free] = common
            held = self.design[:, ~free]
            gap = self.root - self.design @ factors
            dual = linalg.solve(self.gram - held @ held.T + pull, gap, assume_a="pos")
            factors[free] += self.design[:, free].T @ dual
            low = free & (factors < _SMALLEST_FACTOR * common)
            if not low.any():
                break
            factors[low] = _SMALLEST_FACTOR * common
            free &= ~low
        return np.asarray(np.maximum(factors, _SMALLEST_FACTOR * common))


def fit_prices(
    rows: Sequence[LatencyRow],
    extractor: FeatureExtractor,
    weights: FloatArray,
    coefficients: FloatArray | None = None,
) -> BlockPrices | None:
    """Fit the lookup table.

    Args:
        rows: Measured rows.
        extractor: Features of their space.
        weights: Weight of each row, ``[n]``, mean about 1.
        coefficients: Of the physical model (constant first): its prices are the prior where no row carries kernel times.

    Returns:
        The table; None when no row carries kernel times and there are no ``coefficients``.
    """
    ids = extractor.ids(encodings_of(rows))
    profiled, overhead = kernel_prices(rows, extractor, ids)
    physical, y = extractor.physical(), latencies_of(rows)
    present = sorted({int(key) for key in ids.ravel() if key != ABSENT})
    if profiled:
        own = [key for key, price in sorted(profiled.items()) if price > 0]
        fallback = fit_fallback(physical[own], np.array([profiled[key] for key in own]))
    elif coefficients is not None:
        overhead, fallback = float(coefficients[0]), coefficients[1:]
    else:
        return None
    columns = {key: index for index, key in enumerate(present)}
    equal = float(y.mean()) / float(np.mean(np.count_nonzero(ids != ABSENT, axis=1)))
    guesses = np.maximum(physical[present] @ fallback, _SMALLEST_PRIOR * equal)
    prior = np.array([profiled.get(key, 0.0) or guess for key, guess in zip(present, guesses, strict=True)])
    counts, root = _counts(ids, columns), np.sqrt(weights)
    start = max(overhead, 0.01 * float(np.min(y)))
    shares = _Shares.of(counts, prior, start, y, root)
    strength = _choose_strength(shares)
    factors = shares.factors(strength)
    prices = monotone(comparable(physical[present]), factors[:-1] * prior)
    fallback = fit_fallback(physical[present], prices)
    keys = tuple(extractor.indexer.keys[key] for key in present)
    return BlockPrices(keys, prices, float(factors[-1]) * start, fallback, strength, physical[present])


def _choose_strength(shares: _Shares) -> float:
    folds = np.arange(len(shares.root)) % _FOLDS
    if len(folds) < 2 * _FOLDS:
        return _STRENGTHS[-1]
    errors = np.zeros(len(_STRENGTHS))
    for fold in range(_FOLDS):
        inside = shares.take(folds != fold)
        out = folds == fold
        for index, strength in enumerate(_STRENGTHS):
            gap = shares.design[out] @ inside.factors(strength) - shares.root[out]
            errors[index] += float(np.sum(gap**2))
    return _STRENGTHS[int(np.argmin(errors))]
