"""The point predictor: a blend of physical model and lookup table, times what boosted trees add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost as xgb

from hwnas.latency.base_models import design, fit_physical
from hwnas.latency.features import FeatureExtractor
from hwnas.latency.indexing import Ids
from hwnas.latency.lut import BlockPrices, fit_prices
from hwnas.latency.rows import LatencyRow, encodings_of, latencies_of
from hwnas.latency.statistics import BoolArray, FloatArray

THREADS = 1
_TREES = 150
_TINY = 1e-9
_FEW = 20.0
"""What trees find on so many networks is chance; out-of-fold error on them does not show it."""
_BOOSTING: dict[str, Any] = {
    "objective": "reg:squarederror",
    "tree_method": "hist",
    "max_depth": 4,
    "eta": 0.1,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "min_child_weight": 2.0,
    "lambda": 1.0,
    "base_score": 0.0,
    "nthread": THREADS,
    "verbosity": 0,
}


@dataclass(frozen=True)
class Inputs:
    """Everything a regressor reads of some architectures.

    Attributes:
        F: Physical features ``[n, features]``.
        ids: Block-key ids ``[n, positions]``.
    """

    F: FloatArray
    ids: Ids

    @classmethod
    def of(cls, extractor: FeatureExtractor, ids: Ids) -> Inputs:
        """Return the inputs of architectures given by block-key ids."""
        return cls(extractor.from_ids(ids), ids)

    def take(self, rows: Any) -> Inputs:
        """Return the inputs of some rows (indices or mask)."""
        return Inputs(self.F[rows], self.ids[rows])

    def __len__(self) -> int:
        return len(self.F)


@dataclass(frozen=True)
class Base:
    """Physical model and lookup table, each giving latencies.

    Attributes:
        coefficients: Of the physical model (see :func:`~hwnas.latency.base_models.design`).
        prices: The lookup table, unless it was not to take part.
        lut_weight: Weight of the lookup table in the blend.
    """

    coefficients: FloatArray
    prices: BlockPrices | None
    lut_weight: float = 0.0

    def parts(self, extractor: FeatureExtractor, inputs: Inputs) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Return physical latencies, table sums (the physical ones without a table) and guessed blocks, ``[n]`` each."""
        physical = np.maximum(design(inputs.F) @ self.coefficients, _TINY)
        if self.prices is None:
            return physical, physical, np.zeros(len(inputs), dtype=np.bool_)
        sums, guessed = self.prices.sums(extractor, inputs.ids)
        return physical, np.maximum(sums, _TINY), guessed

    def latency(self, physical: FloatArray, sums: FloatArray) -> FloatArray:
        """Return the blended latency ``[n]``."""
        return (1.0 - self.lut_weight) * physical + self.lut_weight * sums


def fit_base(
    rows: Sequence[LatencyRow], extractor: FeatureExtractor, inputs: Inputs, weights: FloatArray, use_lut: bool
) -> Base:
    """Fit physical model and lookup table on rows; the blend weight is chosen elsewhere, out of fold."""
    coefficients = fit_physical(inputs.F, latencies_of(rows), weights)
    return Base(coefficients, fit_prices(rows, extractor, weights, coefficients) if use_lut else None)


def _residual_features(inputs: Inputs, physical: FloatArray, sums: FloatArray) -> FloatArray:
    return np.column_stack([inputs.F, physical, sums])


@dataclass(frozen=True)
class Regressor:
    """``latency = base * exp(shrink * trees)``.

    Attributes:
        base: What the trees correct.
        booster: Boosted trees on ``log(latency / base)``.
        shrink: Share of the trees' correction that is believed, in [0, 1].
    """

    base: Base
    booster: xgb.Booster
    shrink: float

    def predict(self, extractor: FeatureExtractor, inputs: Inputs) -> tuple[FloatArray, BoolArray]:
        """Return latencies and whether any block's price is a guess, ``[n]`` each."""
        physical, sums, guessed = self.base.parts(extractor, inputs)
        value = self.base.latency(physical, sums)
        if self.shrink > 0:
            value = value * np.exp(self.shrink * self.residual(inputs, physical, sums))
        return value, guessed

    def residual(self, inputs: Inputs, physical: FloatArray, sums: FloatArray) -> FloatArray:
        """Return what the trees add to the logarithm, ``[n]``."""
        features = _residual_features(inputs, physical, sums)
        return np.asarray(self.booster.inplace_predict(features), dtype=np.float64)


def fit_booster(
    base: Base,
    extractor: FeatureExtractor,
    inputs: Inputs,
    y: FloatArray,
    weights: FloatArray,
    seed: int,
) -> xgb.Booster:
    """Fit trees on ``log(y / base)``; every feature counts work, and more of it never predicts less time.

    What they fit is the smaller, the fewer networks there are.
    """
    physical, sums, _ = base.parts(extractor, inputs)
    features = _residual_features(inputs, physical, sums)
    target = max(0.0, 1.0 - _FEW / len(y)) * np.log(y / base.latency(physical, sums))
    growing = "(" + ",".join(["1"] * features.shape[1]) + ")"
    parameters = dict(_BOOSTING, seed=seed, monotone_constraints=growing)
    return xgb.train(parameters, xgb.DMatrix(features, target, weight=weights), _TREES)


def inputs_of(rows: Sequence[LatencyRow], extractor: FeatureExtractor) -> Inputs:
    """Return the inputs of table rows."""
    return Inputs.of(extractor, extractor.ids(encodings_of(rows)))
