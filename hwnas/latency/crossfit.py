"""Cross-fitting: every choice of the latency model, and its intervals, from predictions of rows not fitted on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwnas.latency.base_models import blend_weight, row_weights
from hwnas.latency.features import FeatureExtractor
from hwnas.latency.regressor import Base, Inputs, Regressor, fit_base, fit_booster, inputs_of
from hwnas.latency.rows import LatencyRow, latencies_of
from hwnas.latency.statistics import FloatArray
from hwnas.spaces.base import IntArray

FOLDS = 5


@dataclass(frozen=True)
class CrossFit:
    """The fitted regressors and what they said of rows they had not seen.

    Attributes:
        full: Fitted on all rows.
        jury: Fitted without two folds each; their disagreement is the local spread.
        out_of_fold: Out-of-fold latencies ``[n]``, in the order of the rows.
        spread: Standard deviation of the logarithms that regressors give which have not seen the row, ``[n]``.
    """

    full: Regressor
    jury: tuple[Regressor, ...]
    out_of_fold: FloatArray
    spread: FloatArray


@dataclass(frozen=True)
class _Data:
    rows: Sequence[LatencyRow]
    inputs: Inputs
    y: FloatArray
    weights: FloatArray
    fold: IntArray

    def without(self, *folds: int) -> _Data:
        pick = np.flatnonzero(~np.isin(self.fold, folds))
        rows = [self.rows[int(index)] for index in pick]
        return _Data(rows, self.inputs.take(pick), self.y[pick], self.weights[pick], self.fold[pick])


def assign_folds(count: int, folds: int, seed: int) -> IntArray:
    """Return the fold of each of ``count`` rows, ``[count]``: of nearly equal size, drawn from the seed."""
    fold = np.empty(count, dtype=np.int64)
    fold[np.random.default_rng([seed, 5]).permutation(count)] = np.arange(count) % folds
    return fold


def cross_fit(rows: Sequence[LatencyRow], extractor: FeatureExtractor, seed: int, use_lut: bool = True) -> CrossFit:
    """Fit the point predictor and choose blend and shrinkage by out-of-fold error.

    Args:
        rows: Measured rows, at least 5.
        extractor: Features of their space.
        seed: Seed of folds and trees.
        use_lut: Whether the lookup table takes part.
    """
    fold = assign_folds(len(rows), FOLDS, seed)
    data = _Data(rows, inputs_of(rows, extractor), latencies_of(rows), row_weights(rows), fold)
    physical, sums = np.zeros(len(rows)), np.zeros(len(rows))
    bases = []
    for number in range(FOLDS):
        part, out = data.without(number), fold == number
        base = fit_base(part.rows, extractor, part.inputs, part.weights, use_lut)
        physical[out], sums[out], _ = base.parts(extractor, data.inputs.take(out))
        bases.append(base)
    tabled = all(base.prices is not None for base in bases)
    weight = blend_weight(physical, sums, data.y, data.weights) if tabled else 0.0
    values, residuals = _out_of_fold(data, [replace(base, lut_weight=weight) for base in bases], extractor, seed)
    shrink = _shrinkage(data, values, residuals)

    def fit(part: _Data) -> Regressor:
        base = replace(fit_base(part.rows, extractor, part.inputs, part.weights, use_lut), lut_weight=weight)
        return Regressor(base, fit_booster(base, extractor, part.inputs, part.y, part.weights, seed), shrink)

    pairs = {pair: fit(data.without(*pair)) for pair in itertools.combinations(range(FOLDS), 2)}
    jury = tuple(pairs[pair] for pair in pairs if (pair[1] - pair[0]) in (1, FOLDS - 1))
    return CrossFit(fit(data), jury, values * np.exp(shrink * residuals), _unseen_spread(data, pairs, extractor))


def spread_of(regressors: Sequence[Regressor], extractor: FeatureExtractor, inputs: Inputs) -> FloatArray:
    """Return the standard deviation of the logarithms of what regressors predict, ``[n]``."""
    logs = [np.log(regressor.predict(extractor, inputs)[0]) for regressor in regressors]
    return np.asarray(np.std(logs, axis=0), dtype=np.float64)


def _unseen_spread(data: _Data, pairs: dict[tuple[int, int], Regressor], extractor: FeatureExtractor) -> FloatArray:
    spread = np.zeros(len(data.y))
    for number in range(FOLDS):
        out = data.fold == number
        strangers = [regressor for pair, regressor in pairs.items() if number in pair]
        spread[out] = spread_of(strangers, extractor, data.inputs.take(out))
    return spread


def _out_of_fold(
    data: _Data, bases: list[Base], extractor: FeatureExtractor, seed: int
) -> tuple[FloatArray, FloatArray]:
    values, residuals = np.zeros(len(data.y)), np.zeros(len(data.y))
    for number, base in enumerate(bases):
        part, out = data.without(number), data.fold == number
        booster = fit_booster(base, extractor, part.inputs, part.y, part.weights, seed)
        inputs = data.inputs.take(out)
        physical, sums, _ = base.parts(extractor, inputs)
        values[out] = base.latency(physical, sums)
        residuals[out] = Regressor(base, booster, 1.0).residual(inputs, physical, sums)
    return values, residuals


def _shrinkage(data: _Data, values: FloatArray, residuals: FloatArray) -> float:
    norm = float(np.sum(data.weights * residuals**2))
    wanted = float(np.sum(data.weights * residuals * np.log(data.y / values)))
    return float(np.clip(wanted / norm, 0.0, 1.0)) if norm > 0 else 0.0
