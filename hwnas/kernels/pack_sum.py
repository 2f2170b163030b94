"""Prices of kernels learned from whole networks: trees boosted under the sum of a network's kernels ("pack-sum").

A kernel costs ``base * exp(trees)``, a network the sum of its kernels, and the loss is the squared log error of that sum, as
the cost model of Ansor sums over the statements of a program (Zheng et al., OSDI 2020, section 5.2). So every network
teaches the price of each of its kernels, none of which was measured alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from hwnas.kernels.batch import KernelBatch
from hwnas.kernels.physics import FEATURES, GROWING, features
from hwnas.latency.statistics import FloatArray

THREADS = 1
_TREES = 250
_PULL = 1.0
"""Weight of the error of a kernel's own time against that of its network's latency."""
_BOOSTING: dict[str, Any] = {
    "tree_method": "hist",
    "max_depth": 6,
    "eta": 0.1,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "lambda": 1.0,
    "min_child_weight": 0.05,
    "base_score": 0.0,
    "disable_default_eval_metric": 1,
    "nthread": THREADS,
    "verbosity": 0,
    "monotone_constraints": "(" + ",".join("1" if name in GROWING else "0" for name in FEATURES) + ")",
}


def boost(
    batch: KernelBatch,
    base: FloatArray,
    constant: float,
    y: FloatArray,
    weights: FloatArray,
    seed: int,
    times: FloatArray | None = None,
) -> xgb.Booster:
    """Fit the trees that correct the prices of kernels.

    The Gauss-Newton part of the second derivative is bounded from above: by Jensen's inequality the squared change of a
    network's sum is at most the share-weighted mean of its kernels' squared changes, so kernels that change together do
    not overshoot.

    Args:
        batch: Kernels of ``n`` networks.
        base: Prices before, ``[kernels]``, all above 0.
        constant: What a network costs beside its kernels.
        y: Measured latencies, ``[n]``.
        weights: Weights of the networks, ``[n]``.
        seed: Seed of the trees.
        times: Times of the kernels, ``[kernels]``, NaN where not known: each pulls its own price, as much as it weighs in its
            network.
    """
    target = np.log(y)
    known = np.zeros(len(base), dtype=np.bool_) if times is None else np.isfinite(times)
    own = np.zeros(len(base))
    if times is not None:
        own[known] = np.log(times[known] / base[known])

    def loss(margin: NDArray[Any], _: xgb.DMatrix) -> tuple[FloatArray, FloatArray]:
        price = base * np.exp(margin)
        total = batch.sums(price) + constant
        share = (price / total[batch.owner]) * weights[batch.owner]
        pull = _PULL * share * known
        return (np.log(total) - target)[batch.owner] * share + (margin - own) * pull, share + pull

    matrix = xgb.DMatrix(features(batch), label=np.zeros(len(base)))
    return xgb.train(dict(_BOOSTING, seed=seed), matrix, _TREES, obj=loss)


def corrections(booster: xgb.Booster, batch: KernelBatch) -> FloatArray:
    """Return what the trees add to the logarithm of each kernel's price, ``[kernels]``."""
    return np.asarray(booster.predict(xgb.DMatrix(features(batch)), output_margin=True), dtype=np.float64)
