"""Accuracy surrogate: a k-fold ensemble of XGBoost regressors on the genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost
from scipy.stats import kendalltau, spearmanr

from hwnas.spaces.base import IntArray
from hwnas.strategies.problem import FloatArray

PARAMETERS: dict[str, Any] = {
    "objective": "reg:squarederror",
    "tree_method": "hist",
    "eta": 0.1,
    "max_depth": 2,
    "min_child_weight": 2,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "lambda": 1.0,
    # One thread: sums in a fixed order, so a resumed search continues to the same bits.
    "nthread": 1,
}
ROUNDS = 200
FOLDS = 10


def one_hot(X: IntArray, lower: IntArray, upper: IntArray) -> FloatArray:
    """Return one column per value of each gene, ``[n, sum(upper - lower + 1)]`` (NAT's features)."""
    columns = [(X[:, [j]] == np.arange(low, high + 1)) for j, (low, high) in enumerate(zip(lower, upper, strict=True))]
    return np.asarray(np.hstack(columns), dtype=np.float64)


class AccuracySurrogate:
    """Predicts accuracy from canonical encodings; each of ``folds`` regressors leaves one fold out.

    NATv2 (Sarti et al. 2023) uses ten LightGBM experts on integer genes and their mean; XGBoost stands in for it, the
    standard deviation over experts is kept as a measure of doubt.

    Args:
        lower: Smallest value of each gene, ``[n_genes]``.
        upper: Largest value of each gene, ``[n_genes]``.
        one_hot: Use one-hot features instead of integers.
        folds: Number of experts (fewer where fewer rows are given).
        seed: Seed of the folds and of row and column sampling.
    """

    def __init__(
        self, lower: IntArray, upper: IntArray, *, one_hot: bool = False, folds: int = FOLDS, seed: int = 0
    ) -> None:
        self.lower = lower
        self.upper = upper
        self.one_hot = one_hot
        self.folds = folds
        self.seed = seed
        self._experts: list[Any] = []
        self._center = 0.0

    def _features(self, X: IntArray) -> FloatArray:
        return one_hot(X, self.lower, self.upper) if self.one_hot else np.asarray(X, dtype=np.float64)

    def fit(self, X: IntArray, accuracy: FloatArray) -> AccuracySurrogate:
        """Fit the experts.

        Args:
            X: Canonical encodings, ``[n, n_genes]``, ``n >= 2``.
            accuracy: Accuracies, ``[n]``.

        Raises:
            ValueError: Fewer than two rows, or lengths differ.
        """
        if len(X) < 2 or len(X) != len(accuracy):
            raise ValueError(
                f"a surrogate needs at least 2 rows and as many accuracies, got {len(X)} and {len(accuracy)}"
            )
        features = self._features(X)
        # Boosting starts at the mean and predicts in units of the spread, so that its penalties suit any metric.
        self._center = float(accuracy.mean())
        self._scale = float(accuracy.std()) or 1.0
        target = (accuracy - self._center) / self._scale
        folds = np.array_split(np.random.default_rng(self.seed).permutation(len(X)), min(self.folds, len(X)))
        self._experts = []
        for index, held in enumerate(folds):
            rows = np.setdiff1d(np.arange(len(X)), held)
            matrix = xgboost.DMatrix(features[rows], label=target[rows], nthread=1)
            parameters = {**PARAMETERS, "base_score": 0.0, "seed": self.seed % 2**31 + index}
            self._experts.append(xgboost.train(parameters, matrix, num_boost_round=ROUNDS))
        return self

    def predict(self, X: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return mean and standard deviation of the experts' accuracies, each ``[n]``."""
        matrix = xgboost.DMatrix(self._features(X), nthread=1)
        votes = np.array([expert.predict(matrix) for expert in self._experts], dtype=np.float64)
        votes = votes * self._scale + self._center
        return np.asarray(votes.mean(axis=0)), np.asarray(votes.std(axis=0))


@dataclass(frozen=True)
class SurrogateScore:
    """How well predictions fit the accuracies measured afterwards; rank figures are None where they have no meaning.

    Attributes:
        tau: Kendall's tau-b.
        spearman: Spearman's rank correlation.
        rmse: Root mean squared error, in accuracy.
    """

    tau: float | None
    spearman: float | None
    rmse: float


def score(predicted: FloatArray, accuracy: FloatArray) -> SurrogateScore:
    """Compare predictions with accuracies, each ``[n]``."""
    rmse = float(np.sqrt(np.mean((predicted - accuracy) ** 2)))
    if len(accuracy) < 3 or np.ptp(predicted) == 0 or np.ptp(accuracy) == 0:
        return SurrogateScore(None, None, rmse)
    tau = float(kendalltau(predicted, accuracy).statistic)
    return SurrogateScore(tau, float(spearmanr(predicted, accuracy).statistic), rmse)
