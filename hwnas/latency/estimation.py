"""From bursts to estimates: which statistic, which correction, and what is left uncertain.

What a latency model is trained on has to predict what verification will measure: the median (``p50``) under the table's
reference condition. Five estimators of it compete: the median over rounds of each round's p50, or of each round's p10
times the session's common ratio p50 / p10; each as measured, or less the effect of its round; and the lowest p10 of all
rounds, for hosts whose slow phases hit single networks in most rounds. How far the medians lie above the lowest p10 is
then a robust line over the networks, because slow phases stretch small and large ones unequally; it needs many networks.
The one with the smallest leave-one-round-out error wins: rounds but one estimate, the round left out (corrected by the
other networks only) is what had to be predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from hwnas.latency.statistics import (
    MAD_SCALE,
    BoolArray,
    FloatArray,
    RobustLine,
    bootstrap_medians,
    effects_matter,
    interval_of,
    lowest_half_width,
    median_deviation,
    nanmedian,
    nanmin,
    two_way_fit,
)

ESTIMATORS = ("p50-raw", "p50-corrected", "p10-raw", "p10-corrected", "p10-lowest")
"""Estimators of the median, simplest first."""

_ERROR_CAP = 0.25
_PREFER_SIMPLER = 0.995
_FEWEST_UNITS = 4
_MANY_NETWORKS = 12


@dataclass(frozen=True)
class Logs:
    """Logarithms of per-round quantiles of one group: ``p10`` and ``p50``, each ``[networks, units]``, NaN if missing.

    Attributes:
        canary: Which rows are canaries, ``[networks]``.
    """

    p10: FloatArray
    p50: FloatArray
    canary: BoolArray

    @property
    def reference(self) -> BoolArray:
        """Rows that may define the effect of a unit: all of them where there are many, else the canaries."""
        if int((~self.canary).sum()) >= _MANY_NETWORKS:
            return np.ones(len(self.canary), dtype=np.bool_)
        return self.canary

    def without(self, unit: int) -> Logs:
        """Return the logs without one unit."""
        return Logs(np.delete(self.p10, unit, axis=1), np.delete(self.p50, unit, axis=1), self.canary)

    def of(self, statistic: str) -> FloatArray:
        """Return the matrix of ``p10`` or ``p50``."""
        return self.p10 if statistic == "p10" else self.p50


@dataclass(frozen=True)
class GroupEstimate:
    """Estimates of the networks of one group, as logarithms under the group's median condition.

    Attributes:
        level: Of every estimator, name -> ``[networks]``.
        half_log: Log half-widths below and above the level, name -> (``[networks]``, ``[networks]``).
        spread: Standard error of each network's corrected p50 level, ``[networks]``.
        drift: Range of the round effects as a ratio minus one.
        halves: The chosen estimator's values from even and odd units, name -> ``[2, networks]``.
    """

    level: dict[str, FloatArray]
    half_log: dict[str, tuple[FloatArray, FloatArray]]
    spread: FloatArray
    drift: float
    halves: dict[str, FloatArray] = field(default_factory=dict)


def levels(logs: Logs) -> dict[str, FloatArray]:
    """Return each estimator's log estimate of the median, name -> ``[networks]``."""
    fits = {statistic: two_way_fit(logs.of(statistic), logs.reference) for statistic in ("p10", "p50")}
    raw = {statistic: nanmedian(logs.of(statistic), axis=1) for statistic in ("p10", "p50")}
    ratio = float(np.nanmedian(fits["p50"].network - fits["p10"].network))
    line = _lowest(logs, fits["p50"].network)
    return {
        "p50-raw": raw["p50"],
        "p50-corrected": fits["p50"].network,
        "p10-raw": raw["p10"] + ratio,
        "p10-corrected": fits["p10"].network + ratio,
        "p10-lowest": line.x + line.fitted,
    }


def _lowest(logs: Logs, medians: FloatArray) -> RobustLine:
    """Return the line of what lies between the lowest p10 of each network and its median."""
    lowest = nanmin(logs.p10, axis=1)
    return RobustLine.through(lowest, medians - lowest)


def _leave_one_out_medians(values: FloatArray, reference: BoolArray) -> FloatArray:
    """Return for every row the median of ``values`` over the reference rows but itself, ``[n]``."""
    rows = np.flatnonzero(reference & np.isfinite(values))
    result = np.full(len(values), float(np.median(values[rows])) if len(rows) else np.nan)
    for row in rows:
        others = rows[rows != row]
        result[row] = float(np.median(values[others])) if len(others) else np.nan
    return result


def leave_one_round_out(logs: Logs) -> dict[str, float]:
    """Return the mean capped log error of each estimator when it predicts the round left out."""
    errors: dict[str, list[FloatArray]] = {name: [] for name in ESTIMATORS}
    for unit in range(logs.p50.shape[1]):
        rest = levels(logs.without(unit))
        deviation = logs.p50[:, unit] - rest["p50-corrected"]
        target = logs.p50[:, unit] - _leave_one_out_medians(deviation, logs.reference)
        for name in ESTIMATORS:
            error = np.minimum(np.abs(target - rest[name]), _ERROR_CAP)
            errors[name].append(error[np.isfinite(error)])
    pooled = {name: np.concatenate(entries) for name, entries in errors.items()}
    return {name: float(np.mean(entries)) if len(entries) else float("nan") for name, entries in pooled.items()}


def choose_estimator(groups: list[Logs], among: Sequence[str] = ESTIMATORS) -> tuple[str, dict[str, float]]:
    """Return the estimator with the smallest leave-one-round-out error, and every error.

    A simpler estimator (earlier in ``among``) is kept unless a later one is clearly better. Rounds are corrected for only
    where their effects are larger than noise: to take noise for an effect would narrow the intervals.
    """
    usable = [logs for logs in groups if logs.p50.shape[1] >= _FEWEST_UNITS]
    if any(int((~logs.canary).sum()) < _MANY_NETWORKS for logs in groups):
        among = [name for name in among if name != "p10-lowest"] or among
    if not any(effects_matter(two_way_fit(logs.p50, logs.reference), logs.reference) for logs in usable):
        among = [name for name in among if not name.endswith("-corrected")] or among
    if not usable:
        return among[0], {}
    tables = [leave_one_round_out(logs) for logs in usable]
    errors = {name: float(np.mean([table[name] for table in tables])) for name in ESTIMATORS}
    best = among[0]
    for name in among[1:]:
        if errors[name] < _PREFER_SIMPLER * errors[best]:
            best = name
    return best, errors


def estimate_group(logs: Logs, rng: np.random.Generator, resamples: int, confidence: float) -> GroupEstimate:
    """Return levels and intervals (bootstrap over units) of every estimator for the networks of one group."""
    level = levels(logs)
    half_log: dict[str, tuple[FloatArray, FloatArray]] = {}
    spread = np.zeros(len(logs.canary))
    drift = 0.0
    ratio_error = float(stats.norm.ppf((1.0 + confidence) / 2.0)) * _ratio_spread(logs, rng, resamples)
    for name in ESTIMATORS:
        statistic, correction = name.split("-")
        if correction == "lowest":
            continue
        matrix = logs.of(statistic)
        fit = two_way_fit(matrix, logs.reference)
        values = matrix - fit.effect if correction == "corrected" else matrix
        units = matrix.shape[1]
        centre = nanmedian(values, axis=1)
        draws = bootstrap_medians(values, rng, resamples)
        low, high = interval_of(centre, draws, units, confidence)
        apart = ratio_error if statistic == "p10" else 0.0
        half_log[name] = (np.hypot(centre - low, apart), np.hypot(high - centre, apart))
        if name == "p50-corrected":
            spread, drift = np.asarray(np.nanstd(draws, axis=0)), fit.drift
    scale = _lowest(logs, level["p50-corrected"]).half_width(confidence)
    half = np.hypot(lowest_half_width(logs.p10, rng, resamples, confidence), scale)
    half_log["p10-lowest"] = (half, half)
    return GroupEstimate(level, half_log, spread, drift, _halves(logs))


def _ratio_spread(logs: Logs, rng: np.random.Generator, resamples: int) -> float:
    """Return by how much (log) networks differ in p50 / p10, which is taken for common, beyond the noise of the ratio."""
    ratios = logs.p50 - logs.p10
    found = nanmedian(ratios, axis=1)
    noise = np.nanstd(bootstrap_medians(ratios, rng, resamples), axis=0)
    known = np.isfinite(found)
    spread = MAD_SCALE * median_deviation(found[known]) if known.any() else 0.0
    return float(np.sqrt(max(spread**2 - float(np.mean(noise[known] ** 2)), 0.0))) if known.any() else 0.0


def _halves(logs: Logs) -> dict[str, FloatArray]:
    units = logs.p50.shape[1]
    if units < _FEWEST_UNITS:
        return {}
    even, odd = (levels(Logs(logs.p10[:, start::2], logs.p50[:, start::2], logs.canary)) for start in (0, 1))
    return {name: np.stack([even[name], odd[name]]) for name in ESTIMATORS}


@dataclass(frozen=True)
class Shift:
    """How much slower (log ratio) the machine was than under the reference condition, as the canaries saw it.

    Attributes:
        reference: Log reference latency of each canary, ascending, ``[canaries]``.
        shift: Log ratio of each, ``[canaries]``.
        error: Standard error of each, ``[canaries]``.
    """

    reference: FloatArray
    shift: FloatArray
    error: FloatArray

    @classmethod
    def between(cls, here: FloatArray, error: FloatArray, reference: FloatArray) -> Shift:
        """Compare canary levels with their reference (log, ``[canaries]``); canaries that failed here are left out."""
        known = np.isfinite(here) & np.isfinite(reference)
        order = np.argsort(reference[known])
        pick = np.flatnonzero(known)[order]
        return cls(reference[pick], here[pick] - reference[pick], error[pick])

    @property
    def significant(self) -> bool:
        """Whether the mean shift exceeds twice its standard error."""
        if not len(self.shift):
            return False
        error = float(np.sqrt(np.sum(self.error**2))) / len(self.error)
        return abs(float(np.mean(self.shift))) > 2.0 * error

    def at(self, level: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return shift and standard error at log latencies ``level [n]``.

        Between canaries both are interpolated; beyond them the nearest canary's are taken.
        """
        if not len(self.shift):
            return np.zeros_like(level), np.zeros_like(level)
        here = self.reference + self.shift
        order = np.argsort(here)
        return np.interp(level, here[order], self.shift[order]), np.interp(level, here[order], self.error[order])
