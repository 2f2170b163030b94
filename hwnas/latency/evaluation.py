"""How good a latency model is on networks it never saw, beside simple baselines and the noise of measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from hwnas.errors import TableError
from hwnas.latency.base_models import row_weights
from hwnas.latency.features import PHYSICAL, FeatureExtractor
from hwnas.latency.lut import fit_prices, kernel_prices
from hwnas.latency.model import FEWEST_ROWS, LatencyModel
from hwnas.latency.predictor import LatencyPredictor
from hwnas.latency.regressor import inputs_of
from hwnas.latency.rows import LatencyRow, encodings_of, latencies_of
from hwnas.latency.statistics import FloatArray
from hwnas.latency.table import LatencyTable
from hwnas.spaces.base import Architecture, SearchSpace

Predict = Callable[[Sequence[LatencyRow]], FloatArray]


@dataclass(frozen=True)
class Scores:
    """Agreement of predicted and measured latencies.

    Attributes:
        count: Networks compared.
        mape: Mean absolute percentage error (0.02: 2 %).
        within_5: Share within 5 %.
        within_10: Share within 10 %.
        spearman: Rank correlation; NaN with fewer than 3 networks.
        kendall: Kendall's tau-b; NaN with fewer than 3 networks.
        bias: Median of predicted / measured, minus one.
        coverage: Share of measured latencies inside the interval; NaN without intervals.
        width: Median relative width of the interval (high / low - 1); NaN without intervals.
    """

    count: int
    mape: float
    within_5: float
    within_10: float
    spearman: float
    kendall: float
    bias: float
    coverage: float = float("nan")
    width: float = float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data; what is not known is None."""
        return {name: None if isinstance(v, float) and np.isnan(v) else v for name, v in asdict(self).items()}


def score(
    predicted: FloatArray, measured: FloatArray, low: FloatArray | None = None, high: FloatArray | None = None
) -> Scores:
    """Compare predicted and measured latencies, and intervals if given, all ``[n]``.

    Raises:
        ValueError: Nothing to compare.
    """
    if not len(measured):
        raise ValueError("no network to score")
    error = np.abs(predicted / measured - 1.0)
    many = len(measured) >= 3
    inside = (measured >= low) & (measured <= high) if low is not None and high is not None else None
    return Scores(
        count=len(measured),
        mape=float(np.mean(error)),
        within_5=float(np.mean(error <= 0.05)),
        within_10=float(np.mean(error <= 0.10)),
        spearman=float(stats.spearmanr(predicted, measured).statistic) if many else float("nan"),
        kendall=float(stats.kendalltau(predicted, measured).statistic) if many else float("nan"),
        bias=float(np.median(predicted / measured) - 1.0),
        coverage=float(np.mean(inside)) if inside is not None else float("nan"),
        width=float(np.median(high / low) - 1.0) if low is not None and high is not None else float("nan"),
    )


def evaluate(model: LatencyPredictor, rows: Sequence[LatencyRow]) -> Scores:
    """Score a model on measured rows.

    Raises:
        TableError: There is no row.
    """
    if not rows:
        raise TableError("no held-out networks to judge the model by. Profile with profile.held_out above 0.")
    prediction = model.predict(encodings_of(rows))
    return score(prediction.value, latencies_of(rows), prediction.low, prediction.high)


def macs_line(train: Sequence[LatencyRow], extractor: FeatureExtractor) -> Predict:
    """Fit ``latency = a + b * MACs`` by weighted relative error: the baseline of most papers."""
    columns = [index for index, name in enumerate(PHYSICAL) if name.startswith("macs_")]

    def design(rows: Sequence[LatencyRow]) -> FloatArray:
        return np.column_stack([np.ones(len(rows)), inputs_of(rows, extractor).F[:, columns].sum(axis=1)])

    y, root = latencies_of(train), np.sqrt(row_weights(train))
    coefficients, *_ = np.linalg.lstsq(design(train) * (root / y)[:, None], root, rcond=None)
    return lambda rows: np.maximum(design(rows) @ coefficients, 1e-9)


def block_sums(train: Sequence[LatencyRow], extractor: FeatureExtractor) -> Predict | None:
    """Return the plain sum of kernel times per block plus overhead, nothing fitted; None without kernel times.

    Blocks that were never profiled take the price that the physical features of the others suggest.
    """
    prices, overhead = kernel_prices(train, extractor, extractor.ids(encodings_of(train)))
    fitted = fit_prices(train, extractor, row_weights(train))
    if fitted is None:
        return None

    def predict(rows: Sequence[LatencyRow]) -> FloatArray:
        ids = extractor.ids(encodings_of(rows))
        guesses, _ = fitted.price_list(extractor)
        table = np.append([prices.get(key, guess) for key, guess in enumerate(guesses)], 0.0)
        return overhead + np.asarray(table[ids].sum(axis=1), dtype=np.float64)

    return predict


def test_retest(rows: Sequence[LatencyRow]) -> Scores | None:
    """Compare the estimate from even rounds with that from odd rounds: what no model can be asked to beat.

    None when no row has both halves.
    """
    pairs = np.array([row.halves for row in rows if len(row.halves) == 2])
    return score(pairs[:, 0], pairs[:, 1]) if len(pairs) else None


def compare(
    table: LatencyTable, model: LatencyPredictor, space: SearchSpace[Architecture], seed: int = 0
) -> dict[str, Scores]:
    """Score a table's latency model, its baselines and the repeated measurement on the held-out rows.

    Returns:
        Name -> scores: ``model``, ``alone`` (of a transferred model: one fitted on the same rows alone), ``without_lut`` (if
        there are rows enough), ``block_lut`` (if kernels were profiled), ``macs``, ``test_retest`` (if rows have halves).

    Raises:
        TableError: No held-out rows, or too few rows to fit on.
    """
    train, held_out = table.measured("train", "search"), table.measured("held_out")
    results = {"model": evaluate(model, held_out)}
    if len(train) >= FEWEST_ROWS:
        if not isinstance(model, LatencyModel):
            results["alone"] = evaluate(LatencyModel.fit(table, space, seed=seed), held_out)
        results["without_lut"] = evaluate(LatencyModel.fit(table, space, use_lut=False, seed=seed), held_out)
    extractor, measured = model.extractor, latencies_of(held_out)
    baselines = {"block_lut": block_sums(train, extractor), "macs": macs_line(train, extractor)}
    results |= {name: score(predict(held_out), measured) for name, predict in baselines.items() if predict is not None}
    repeated = test_retest(held_out)
    return results | ({"test_retest": repeated} if repeated is not None else {})
