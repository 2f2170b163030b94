"""A session's bursts turned into measurements: groups linked by canaries, shifted to the reference, graded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwnas.latency.clocks import COARSE, middle_of, tick_of, unread_by
from hwnas.latency.estimation import ESTIMATORS, GroupEstimate, Logs, Shift, choose_estimator, estimate_group
from hwnas.latency.faults import find_faults
from hwnas.latency.measurement import Cell, Measurement
from hwnas.latency.protocol import Protocol, is_time
from hwnas.latency.statistics import (
    MAD_SCALE,
    FloatArray,
    grade_of,
    median_deviation,
    percentiles_of,
)

_DISTURBED_SHARE = 0.2
_MOST = 0.5
_SHORTEST = 1e-6
"""What the journal rounds samples to: a clock too coarse for a network reads 0, which has no logarithm."""
_SPIKE_SCORE = 14.826
_SPIKE_SHARE = 0.02


@dataclass(frozen=True)
class SessionResult:
    """What a session of many networks gave.

    Attributes:
        measurements: One per item, in their order; failures are among them.
        canaries: Latency of each canary under the reference condition of these measurements.
        estimator: The chosen estimator (see :mod:`hwnas.latency.estimation`).
        errors: Leave-one-round-out log error of every estimator; empty with too few rounds to tell.
        drift: Range of the round effects as a ratio minus one (0.1: the machine moved by 10 %).
        cells: Every burst.
        extras: Key -> what was learned of the network besides its latency.
        disturbed: What moved the machine (:mod:`hwnas.latency.faults`), and what disturbed at least half of the networks.
    """

    measurements: tuple[Measurement, ...]
    canaries: dict[str, float]
    estimator: str
    errors: dict[str, float]
    drift: float
    cells: tuple[Cell, ...]
    extras: dict[str, Any] = field(default_factory=dict)
    disturbed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Group:
    keys: tuple[str, ...]
    logs: Logs
    estimate: GroupEstimate | None = field(default=None)


@dataclass(frozen=True)
class _Way:
    """How the measurements of one group are formed: estimator, shift (``referred`` to a table or not), tick and unit."""

    estimator: str
    shift: Shift
    referred: bool
    tick: float
    unit: str


def contended(cell: Cell, protocol: Protocol) -> bool:
    """Whether other work visibly disturbed a burst."""
    if cell.pressure is not None and cell.pressure > protocol.max_pressure:
        return True
    runs = max(len(cell.samples), 1)
    return cell.switches is not None and cell.switches / runs > protocol.max_switches_per_run


def disturbances(
    cells: Sequence[Cell], protocol: Protocol, limits: Sequence[str] = (), moved: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the names of what disturbed the bursts of one network (see :class:`Measurement`).

    Args:
        cells: The network's bursts.
        protocol: Thresholds.
        limits: What the device said it cannot do (``WorkerInfo.limits``).
        moved: What moved the machine (:func:`hwnas.latency.faults.find_faults`).
    """
    reasons = [reason for reason in ("no_affinity",) if any("affinity" in limit for limit in limits)]
    pressures = [cell.pressure for cell in cells if cell.pressure is not None]
    if not pressures:
        reasons.append("no_pressure_information")
    elif np.mean([value > protocol.max_pressure for value in pressures]) > _DISTURBED_SHARE:
        reasons.append("pressure")
    rates = [cell.switches / max(len(cell.samples), 1) for cell in cells if cell.switches is not None]
    if rates and np.mean([rate > protocol.max_switches_per_run for rate in rates]) > _DISTURBED_SHARE:
        reasons.append("switches")
    reasons += moved
    if spike_share(_relative(cells)) > _SPIKE_SHARE:
        reasons.append("spikes")
    samples = np.concatenate([cell.samples for cell in cells])
    if tick_of(samples) > COARSE * float(np.median(samples)):
        reasons.append("coarse_clock")
    return tuple(reasons)


def _relative(cells: Sequence[Cell]) -> FloatArray:
    """Return all samples as shares of their burst's median, so that a machine that moves hides no spikes."""
    medians = [float(np.median(cell.samples)) for cell in cells]
    parts = [cell.samples / median for cell, median in zip(cells, medians, strict=True) if median > 0]
    return np.concatenate(parts) if parts else np.zeros(0)


def spike_share(samples: FloatArray) -> float:
    """Return the share of samples above the median by a modified z-score of 14.826 (hyperfine's line)."""
    if not len(samples):
        return 0.0
    scale = MAD_SCALE * median_deviation(samples)
    return float(np.mean(samples - np.median(samples) > _SPIKE_SCORE * scale)) if scale > 0 else 0.0


def unknown_quality(disturbed: Iterable[str]) -> bool:
    """Whether a measurement can never be graded better than C."""
    return bool({"no_affinity", "no_pressure_information"} & set(disturbed))


def _logs_of(cells: Sequence[Cell], canaries: Sequence[str], tick: float) -> tuple[tuple[str, ...], Logs]:
    pooled: dict[tuple[str, tuple[int, int, int]], list[FloatArray]] = {}
    for cell in cells:
        pooled.setdefault((cell.key, cell.unit), []).append(cell.samples)
    keys = tuple(dict.fromkeys(key for key, _ in pooled))
    units = {unit: index for index, unit in enumerate(sorted({unit for _, unit in pooled}))}
    rows = {key: index for index, key in enumerate(keys)}
    quantiles = np.full((2, len(keys), len(units)), np.nan)
    for (key, unit), samples in pooled.items():
        both = np.concatenate(samples)
        median = middle_of(both, tick)
        coarse = tick > COARSE * float(np.median(both))
        quantiles[:, rows[key], units[unit]] = (median if coarse else np.percentile(both, 10.0), median)
    logs = np.log(np.maximum(quantiles, _SHORTEST))
    return keys, Logs(logs[0], logs[1], np.array([key in canaries for key in keys], dtype=np.bool_))


def _canary_levels(group: _Group, canaries: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    assert group.estimate is not None
    level, spread = group.estimate.level["p50-corrected"], group.estimate.spread
    rows = [group.keys.index(name) if name in group.keys else -1 for name in canaries]
    found = np.array(rows) >= 0
    return np.where(found, level[rows], np.nan), np.where(found, spread[rows], np.nan)


def analyse(
    cells: Sequence[Cell],
    canaries: Sequence[str],
    protocol: Protocol,
    *,
    reference: Mapping[str, float] | None = None,
    limits: Sequence[str] = (),
    unit: str = "ms",
    estimators: Sequence[str] = ESTIMATORS,
    known: Sequence[str] = (),
) -> SessionResult:
    """Turn the good bursts of a session into measurements, one per network that is not a canary.

    Args:
        cells: Bursts without failure.
        canaries: Names of the canaries among them.
        protocol: Protocol they were measured by.
        reference: Canary latencies of an existing table; the results are normalised to it if the shift is significant.
            Without it this session's own median condition is the reference.
        limits: What the device said it cannot do.
        unit: Unit of the samples. Where it is no time, nothing disturbs them and nothing is corrected.
        estimators: What may be chosen, simplest first.
        known: What is known of the session already (``cold_start``).
    """
    counted = not is_time(unit)
    if counted:
        estimators, reference = ESTIMATORS[:1], None
    rng = np.random.default_rng(protocol.seed)
    tick = tick_of(np.concatenate([cell.samples for cell in cells])) if cells else 0.0
    groups = []
    for number in sorted({cell.group for cell in cells}):
        keys, logs = _logs_of([cell for cell in cells if cell.group == number], canaries, tick)
        groups.append(_Group(keys, logs, estimate_group(logs, rng, protocol.resamples, protocol.confidence)))
    estimator, errors = choose_estimator([group.logs for group in groups], estimators)
    found = [_canary_levels(group, canaries) for group in groups]
    common = np.mean([level for level, _ in found], axis=0) if found else np.full(len(canaries), np.nan)
    drift = max((group.estimate.drift for group in groups if group.estimate), default=0.0)
    telling = [{key for key, may in zip(group.keys, group.logs.reference, strict=True) if may} for group in groups]
    moved = () if counted else (*known, *find_faults(cells, protocol, telling))
    target = common
    if reference is not None:
        target = np.log([reference.get(name, np.nan) for name in canaries])
    results: list[Measurement] = []
    by_key: dict[str, list[Cell]] = {}
    for cell in cells:
        by_key.setdefault(cell.key, []).append(cell)
    for group, (here, error) in zip(groups, found, strict=True):
        way = _Way(estimator, Shift.between(here, error, target), reference is not None, tick, unit)
        for row, key in enumerate(group.keys):
            if key not in canaries:
                disturbed = () if counted else disturbances(by_key[key], protocol, limits, moved)
                results.append(_measurement(group, row, by_key[key], disturbed, way))
    canary_values = {
        name: float(np.exp(level)) for name, level in zip(canaries, target, strict=True) if np.isfinite(level)
    }
    return SessionResult(
        tuple(results), canary_values, estimator, errors, drift, tuple(cells), disturbed=_common(results, moved)
    )


def _common(measurements: Sequence[Measurement], moved: Sequence[str]) -> tuple[str, ...]:
    """Return what moved the machine and what disturbed at least half of the networks, in the order of the words."""
    counts = Counter(word for measurement in measurements for word in measurement.disturbed)
    often = [word for word, count in counts.items() if count >= _MOST * len(measurements)]
    return tuple(dict.fromkeys([*moved, *often]))


def _measurement(group: _Group, row: int, cells: Sequence[Cell], disturbed: tuple[str, ...], way: _Way) -> Measurement:
    estimate, estimator, apply = group.estimate, way.estimator, way.shift.significant
    assert estimate is not None
    level = estimate.level[estimator][row : row + 1]
    offset, error = way.shift.at(level)
    used = float(offset[0]) if apply else 0.0
    # a shift from a reference that is too small to be told from none still leaves open by how much
    extra = 1.96 * float(error[0]) if apply or way.referred else 0.0
    below, above = (float(half[row]) for half in estimate.half_log[estimator])
    value = float(np.exp(level[0] - used))
    samples = np.concatenate([cell.samples for cell in cells])
    rounds = len({cell.round for cell in cells})
    other = np.hypot(extra, unread_by(way.tick, samples, rounds) / float(np.exp(level[0])))
    low = float(np.exp(level[0] - used - np.hypot(below, other)))
    high = float(np.exp(level[0] - used + np.hypot(above, other)))
    percentiles = percentiles_of(samples)
    halves = estimate.halves.get(estimator)
    return Measurement(
        key=cells[0].key,
        value=value,
        low=low,
        high=high,
        unit=way.unit,
        estimator=estimator + ("-shifted" if apply else ""),
        percentiles=percentiles,
        floor=percentiles["p1"],
        mad=median_deviation(samples),
        count=len(samples),
        rounds=rounds,
        grade=grade_of(value, low, high, not unknown_quality(disturbed)),
        disturbed=disturbed,
        raw_value=float(np.exp(estimate.level["p50-raw"][row])),
        corrected_value=float(np.exp(estimate.level["p50-corrected"][row] - offset[0])),
        halves=tuple(float(np.exp(half[row] - used)) for half in halves) if halves is not None else (),
    )
