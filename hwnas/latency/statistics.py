"""Robust statistics of interleaved bursts: two-way fits, bootstrap over rounds, grades.

A matrix of logarithms ``L[n, u]`` holds one number per network (row) and unit (column: one round of one uninterrupted
session); a cell that was not measured is NaN. ``L[n, u] = network[n] + effect[u] + noise``: the effect is what the
machine did to everything in that unit.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

PERCENTILES = {"p1": 1.0, "p10": 10.0, "p50": 50.0, "p90": 90.0, "p99": 99.0}
"""Percentiles kept of every network, over all its raw samples."""

_OUTLYING = 3.0

MAD_SCALE = 1.4826
"""Standard deviation of a normal distribution, in median absolute deviations."""

MEDIAN_ERROR = 1.2533
"""Standard error of a median of normal values, in standard errors of their mean."""

GRADES = (("A", 0.02), ("B", 0.05))
"""Largest relative half-width of the confidence interval for each grade; beyond the last it is C."""


@dataclass(frozen=True)
class TwoWayFit:
    """``L = network + effect + residual``.

    Attributes:
        network: Level of each network under the session's median condition, ``[n]``.
        effect: Effect of each unit, median 0, ``[u]``.
        residual: What is left, NaN where nothing was measured, ``[n, u]``.
    """

    network: FloatArray
    effect: FloatArray
    residual: FloatArray

    @property
    def drift(self) -> float:
        """Range of the unit effects between their 5th and 95th percentile, as a ratio minus one."""
        known = self.effect[np.isfinite(self.effect)]
        if len(known) < 2:
            return 0.0
        low, high = np.percentile(known, [5.0, 95.0])
        return float(np.exp(high - low) - 1.0)


def effects_matter(fit: TwoWayFit, reference: BoolArray, confidence: float = 0.99) -> bool:
    """Whether unit effects are larger than the noise of those who define them, by a chi-squared test.

    Args:
        fit: Networks and effects.
        reference: Networks that defined the effects, ``[n]``.
        confidence: Of the test.
    """
    rest = fit.residual[reference]
    known = np.isfinite(rest).sum(axis=0)
    rows, columns = rest.shape
    if rows < 2 or columns < 2 or not known.all():
        return bool(columns >= 2)
    limit = _OUTLYING * MAD_SCALE * median_deviation(rest[np.isfinite(rest)])
    # median polish leaves many residuals at nought, so that their own median deviation would be too small a scale
    scale = np.sqrt(np.nansum(np.clip(rest, -limit, limit) ** 2) / ((rows - 1) * (columns - 1)))
    effect = fit.effect - np.mean(fit.effect)
    if scale <= 0:
        return bool(np.any(effect != 0))
    errors = MEDIAN_ERROR * scale / np.sqrt(known)
    return bool(np.sum((effect / errors) ** 2) > stats.chi2.ppf(confidence, columns - 1))


def nanmedian(values: FloatArray, axis: int) -> FloatArray:
    """Median that ignores NaN and gives NaN, without a warning, where there is nothing else."""
    if not np.isnan(values).any() and values.shape[axis]:
        return np.asarray(np.median(values, axis=axis), dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmedian(values, axis=axis), dtype=np.float64)


def nanmin(values: FloatArray, axis: int) -> FloatArray:
    """Minimum that ignores NaN and gives NaN, without a warning, where there is nothing else."""
    return np.asarray(np.fmin.reduce(values, axis=axis), dtype=np.float64)


def two_way_fit(logs: FloatArray, reference: BoolArray, iterations: int = 8) -> TwoWayFit:
    """Fit network levels and unit effects by median polish (Tukey, Exploratory Data Analysis, chapter 11).

    Args:
        logs: Logarithms, ``[n, u]``, NaN where missing.
        reference: Networks that may define the effects, ``[n]``; with few networks only the canaries, lest a
            network's own noise be taken for the machine's.
        iterations: Sweeps over rows and columns.
    """
    effect = np.zeros(logs.shape[1])
    network = nanmedian(logs, axis=1)
    for _ in range(iterations):
        effect = nanmedian(logs[reference] - network[reference, None], axis=0)
        effect = np.where(np.isfinite(effect), effect, 0.0)
        effect = effect - np.median(effect)
        network = nanmedian(logs - effect, axis=1)
    return TwoWayFit(network, effect, logs - network[:, None] - effect)


def bootstrap_medians(values: FloatArray, rng: np.random.Generator, resamples: int) -> FloatArray:
    """Return medians over resampled columns, ``[resamples, n]``, of ``values [n, u]`` (NaN ignored)."""
    columns = values.shape[1]
    draws = rng.integers(0, columns, size=(resamples, columns))
    return nanmedian(values[:, draws], axis=2).T


@dataclass(frozen=True)
class RobustLine:
    """A line through points by medians (Theil 1950, Sen 1968).

    Attributes:
        x: The points' abscissae, ``[n]``; NaN where unknown.
        fitted: The line at them, ``[n]``.
        residual: Robust standard deviation of the points about it.
    """

    x: FloatArray
    fitted: FloatArray
    residual: float

    @classmethod
    def through(cls, x: FloatArray, y: FloatArray) -> RobustLine:
        """Fit ``y [n]`` on ``x [n]``; level where there are fewer than three different points."""
        known = np.isfinite(x) & np.isfinite(y)
        slope = 0.0
        if len(np.unique(x[known])) >= 3:
            slope = float(stats.theilslopes(y[known], x[known])[0])
        rest = y - slope * x
        middle = float(np.median(rest[known])) if known.any() else float("nan")
        spread = MAD_SCALE * median_deviation(rest[known]) if known.any() else float("nan")
        return cls(x, middle + slope * x, spread)

    def half_width(self, confidence: float) -> FloatArray:
        """Return half-widths of the line's own interval, ``[n]``: a median's standard error, growing off the middle."""
        known = self.x[np.isfinite(self.x)]
        error = MEDIAN_ERROR * self.residual / np.sqrt(max(len(known), 1))
        spread = float(np.std(known)) if len(known) else 0.0
        away = (self.x - np.mean(known)) / spread if spread > 0 else np.zeros_like(self.x)
        quantile = float(stats.norm.ppf((1.0 + confidence) / 2.0))
        return np.asarray(quantile * error * np.sqrt(1.0 + away**2), dtype=np.float64)


def lowest_half_width(values: FloatArray, rng: np.random.Generator, resamples: int, confidence: float) -> FloatArray:
    """Return how far the minimum over columns may be off, ``[n]``, for ``values [n, u]`` (NaN ignored).

    The bootstrap of an extreme needs fewer draws than there are columns (Bickel, Goetze and van Zwet 1997); two thirds
    were found to cover. A resampled minimum is never below the one seen, so the distance that ``confidence`` of them keep
    is taken on both sides.
    """
    columns = values.shape[1]
    draws = nanmin(values[:, rng.integers(0, columns, size=(resamples, -(-2 * columns // 3)))], axis=2)
    above = np.nanpercentile(draws - nanmin(values, axis=1)[:, None], 100.0 * confidence, axis=1)
    return np.asarray(above, dtype=np.float64) * small_sample_factor(columns, confidence)


def interval_of(
    estimate: FloatArray, draws: FloatArray, units: int, confidence: float
) -> tuple[FloatArray, FloatArray]:
    """Return the percentile interval of bootstrap ``draws [resamples, n]``, widened for few units.

    The bootstrap over ``u`` units is too narrow by ``sqrt(u / (u - 1))`` and ignores that the spread itself is
    estimated; both are mended by the factor ``t / z`` (Hesterberg 2015, section 5.3).
    """
    tail = 100.0 * (1.0 - confidence) / 2.0
    low, high = np.nanpercentile(draws, [tail, 100.0 - tail], axis=0)
    widen = small_sample_factor(units, confidence)
    return estimate - np.maximum(estimate - low, 0.0) * widen, estimate + np.maximum(high - estimate, 0.0) * widen


def small_sample_factor(units: int, confidence: float) -> float:
    """Return the widening of a bootstrap interval over ``units`` rounds; large when there are only two."""
    if units < 2:
        return 1.0
    probability = (1.0 + confidence) / 2.0
    ratio = float(stats.t.ppf(probability, units - 1) / stats.norm.ppf(probability))
    return ratio * float(np.sqrt(units / (units - 1)))


def grade_of(value: float, low: float, high: float, known_quality: bool = True) -> str:
    """Return ``A``, ``B`` or ``C`` by relative half-width.

    Args:
        value: The estimate.
        low: Lower end of its interval.
        high: Upper end of its interval.
        known_quality: False where affinity or pressure cannot be known: never better than C.
    """
    half_width = (high - low) / (2.0 * value)
    if known_quality and np.isfinite(half_width):
        for grade, limit in GRADES:
            if half_width <= limit:
                return grade
    return "C"


def percentiles_of(samples: FloatArray) -> dict[str, float]:
    """Return :data:`PERCENTILES` of raw samples; no sample is dropped."""
    values = np.percentile(samples, list(PERCENTILES.values()))
    return {name: float(value) for name, value in zip(PERCENTILES, values, strict=True)}


def median_deviation(samples: FloatArray) -> float:
    """Return the median absolute deviation (unscaled) of raw samples."""
    return float(np.median(np.abs(samples - np.median(samples))))


def clearly_positive(values: Sequence[float], least: float, confidence: float) -> bool:
    """Whether the median of values is at least ``least`` and they lie above zero, by Wilcoxon's signed-rank test (1945).

    Fewer than ten values are never clear at a confidence of 0.999.
    """
    found = np.asarray(values, dtype=np.float64)
    if not len(found) or float(np.median(found)) < least:
        return False
    return float(stats.wilcoxon(found, alternative="greater").pvalue) < 1.0 - confidence
