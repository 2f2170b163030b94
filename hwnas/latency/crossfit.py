"""Cross-fitting: every choice of the latency model, and its intervals, from predictions of rows not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xgboost as xgb

from hwnas.latency.base_models import blend_weight, row_weights
from hwnas.latency.features import FeatureExtractor
from hwnas.latency.regressor import Base, Inputs, Regressor, fit_base, fit_booster, inputs_of
from hwnas.latency.rows import LatencyRow, latencies_of
from hwnas.latency.statistics import FloatArray
from hwnas.spaces.base import IntArray

FOLDS = 5
_MONOTONE_COST = 1.05


@dataclass(frozen=True)
class CrossFit:
    """The fitted regressors and what they said of rows they had not seen.

    Attributes:
        full: Fitted on all rows.
        folds: Fitted without one fold each; their disagreement is the local spread.
        out_of_fold: Out-of-fold latencies ``[n]``, in the order of the rows.
        monotone: Whether the trees are constrained to be monotone in every feature.
    """

    full: Regressor
    folds: tuple[Regressor, ...]
    out_of_fold: FloatArray
    monotone: bool


@dataclass(frozen=True)
class _Data:
    rows: Sequence[LatencyRow]
    inputs: Inputs
    y: FloatArray
    weights: FloatArray
    fold: IntArray

    def train(self, fold: int) -> _Data:
        pick = np.flatnonzero(self.fold != fold)
        rows = [self.rows[int(index)] for index in pick]
        return _Data(rows, self.inputs.take(pick), self.y[pick], self.weights[pick], self.fold[pick])


def assign_folds(count: int, folds: int, seed: int) -> IntArray:
    """Return the fold of each of ``count`` rows, ``[count]``: of nearly equal size, drawn from the seed."""
    fold = np.empty(count, dtype=np.int64)
    fold[np.random.default_rng([seed, 5]).permutation(count)] = np.arange(count) % folds
    return fold


def cross_fit(rows: Sequence[LatencyRow], extractor: FeatureExtractor, seed: int, use_lut: bool = True) -> CrossFit:
    """Fit the point predictor and choose blend, shrinkage and monotonicity by out-of-fold error.

    Args:
        rows: Measured rows.
        extractor: Features of their space.
        seed: Seed of folds and trees.
        use_lut: Whether the lookup table takes part.
    """
    count = min(FOLDS, len(rows))
    fold = assign_folds(len(rows), count, seed)
    data = _Data(rows, inputs_of(rows, extractor), latencies_of(rows), row_weights(rows), fold)
    bases, lut_weight = _blended_bases(data, extractor, count, use_lut)
    trials = {monotone: _fold_boosters(data, bases, extractor, monotone, seed) for monotone in (True, False)}
    errors = {monotone: _error(data, *trial[1:]) for monotone, trial in trials.items()}
    monotone = errors[True] <= _MONOTONE_COST * errors[False]
    boosters, values, residuals = trials[monotone]
    shrink = _shrinkage(data, values, residuals)
    regressors = tuple(Regressor(base, booster, shrink) for base, booster in zip(bases, boosters, strict=True))
    base = replace(fit_base(rows, extractor, data.inputs, data.weights, use_lut), lut_weight=lut_weight)
    booster = fit_booster(base, extractor, data.inputs, data.y, data.weights, monotone, seed)
    return CrossFit(Regressor(base, booster, shrink), regressors, values * np.exp(shrink * residuals), monotone)


def _blended_bases(data: _Data, extractor: FeatureExtractor, count: int, use_lut: bool) -> tuple[list[Base], float]:
    bases = []
    physical, sums = np.zeros(len(data.y)), np.zeros(len(data.y))
    for fold in range(count):
        part, out = data.train(fold), data.fold == fold
        base = fit_base(part.rows, extractor, part.inputs, part.weights, use_lut)
        physical[out], sums[out], _ = base.parts(extractor, data.inputs.take(out))
        bases.append(base)
    weight = blend_weight(physical, sums, data.y, data.weights)
    if any(base.prices is None for base in bases):
        weight = 0.0
    return [replace(base, lut_weight=weight) for base in bases], weight


def _fold_boosters(
    data: _Data, bases: list[Base], extractor: FeatureExtractor, monotone: bool, seed: int
) -> tuple[list[xgb.Booster], FloatArray, FloatArray]:
    boosters = []
    values, residuals = np.zeros(len(data.y)), np.zeros(len(data.y))
    for fold, base in enumerate(bases):
        part, out = data.train(fold), data.fold == fold
        booster = fit_booster(base, extractor, part.inputs, part.y, part.weights, monotone, seed)
        inputs = data.inputs.take(out)
        physical, sums, _ = base.parts(extractor, inputs)
        values[out] = base.latency(physical, sums)
        residuals[out] = Regressor(base, booster, 1.0).residual(inputs, physical, sums)
        boosters.append(booster)
    return boosters, values, residuals


def _shrinkage(data: _Data, values: FloatArray, residuals: FloatArray) -> float:
    norm = float(np.sum(data.weights * residuals**2))
    wanted = float(np.sum(data.weights * residuals * np.log(data.y / values)))
    return float(np.clip(wanted / norm, 0.0, 1.0)) if norm > 0 else 0.0


def _error(data: _Data, values: FloatArray, residuals: FloatArray) -> float:
    shrink = _shrinkage(data, values, residuals)
    return float(np.mean(data.weights * np.abs(np.log(data.y / values) - shrink * residuals)))
