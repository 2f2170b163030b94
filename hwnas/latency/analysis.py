"""A session's bursts turned into measurements: groups linked by canaries, shifted to the reference, graded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwnas.latency.estimation import ESTIMATORS, GroupEstimate, Logs, Shift, choose_estimator, estimate_group
from hwnas.latency.measurement import Cell, Measurement
from hwnas.latency.protocol import Protocol
from hwnas.latency.statistics import MAD_SCALE, FloatArray, grade_of, median_deviation, percentiles_of

_DISTURBED_SHARE = 0.2
_DRIFT_LIMIT = 0.10
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
    """

    measurements: tuple[Measurement, ...]
    canaries: dict[str, float]
    estimator: str
    errors: dict[str, float]
    drift: float
    cells: tuple[Cell, ...]
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Group:
    keys: tuple[str, ...]
    logs: Logs
    estimate: GroupEstimate | None = field(default=None)


def contended(cell: Cell, protocol: Protocol) -> bool:
    """Whether other work visibly disturbed a burst."""
    if cell.pressure is not None and cell.pressure > protocol.max_pressure:
        return True
    runs = max(len(cell.samples), 1)
    return cell.switches is not None and cell.switches / runs > protocol.max_switches_per_run


def disturbances(
    cells: Sequence[Cell], protocol: Protocol, drift: float, limits: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the names of what disturbed the bursts of one network (see :class:`Measurement`).

    Args:
        cells: The network's bursts.
        protocol: Thresholds.
        drift: Range of the session's round effects.
        limits: What the device said it cannot do (``WorkerInfo.limits``).
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
    if drift > _DRIFT_LIMIT:
        reasons.append("drift")
    if spike_share(np.concatenate([cell.samples for cell in cells])) > _SPIKE_SHARE:
        reasons.append("spikes")
    return tuple(reasons)


def spike_share(samples: FloatArray) -> float:
    """Return the share of samples above the median by a modified z-score of 14.826 (hyperfine's line)."""
    scale = MAD_SCALE * median_deviation(samples)
    return float(np.mean(samples - np.median(samples) > _SPIKE_SCORE * scale)) if scale > 0 else 0.0


def unknown_quality(disturbed: Iterable[str]) -> bool:
    """Whether a measurement can never be graded better than C."""
    return bool({"no_affinity", "no_pressure_information"} & set(disturbed))


def _logs_of(cells: Sequence[Cell], canaries: Sequence[str]) -> tuple[tuple[str, ...], Logs]:
    pooled: dict[tuple[str, tuple[int, int, int]], list[FloatArray]] = {}
    for cell in cells:
        pooled.setdefault((cell.key, cell.unit), []).append(cell.samples)
    keys = tuple(dict.fromkeys(key for key, _ in pooled))
    units = {unit: index for index, unit in enumerate(sorted({unit for _, unit in pooled}))}
    rows = {key: index for index, key in enumerate(keys)}
    quantiles = np.full((2, len(keys), len(units)), np.nan)
    for (key, unit), samples in pooled.items():
        quantiles[:, rows[key], units[unit]] = np.percentile(np.concatenate(samples), [10.0, 50.0])
    logs = np.log(quantiles)
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
) -> SessionResult:
    """Turn the good bursts of a session into measurements, one per network that is not a canary.

    Args:
        cells: Bursts without failure.
        canaries: Names of the canaries among them.
        protocol: Protocol they were measured by.
        reference: Canary latencies of an existing table; the results are normalised to it if the shift is significant.
            Without it this session's own median condition is the reference.
        limits: What the device said it cannot do.
        unit: Unit of the samples.
        estimators: What may be chosen, simplest first.
    """
    rng = np.random.default_rng(protocol.seed)
    groups = []
    for number in sorted({cell.group for cell in cells}):
        keys, logs = _logs_of([cell for cell in cells if cell.group == number], canaries)
        groups.append(_Group(keys, logs, estimate_group(logs, rng, protocol.resamples, protocol.confidence)))
    estimator, errors = choose_estimator([group.logs for group in groups], estimators)
    found = [_canary_levels(group, canaries) for group in groups]
    common = np.mean([level for level, _ in found], axis=0) if found else np.full(len(canaries), np.nan)
    drift = max((group.estimate.drift for group in groups if group.estimate), default=0.0)
    target = common
    if reference is not None:
        target = np.log([reference.get(name, np.nan) for name in canaries])
    results: list[Measurement] = []
    by_key: dict[str, list[Cell]] = {}
    for cell in cells:
        by_key.setdefault(cell.key, []).append(cell)
    for group, (here, error) in zip(groups, found, strict=True):
        shift = Shift.between(here, error, target)
        apply = shift.significant
        for row, key in enumerate(group.keys):
            if key not in canaries:
                bursts = by_key[key]
                disturbed = disturbances(bursts, protocol, drift, limits)
                results.append(_measurement(group, row, bursts, shift, apply, estimator, disturbed, unit))
    canary_values = {name: float(np.exp(level)) for name, level in zip(canaries, target, strict=True)}
    return SessionResult(tuple(results), canary_values, estimator, errors, drift, tuple(cells))


def _measurement(
    group: _Group,
    row: int,
    cells: Sequence[Cell],
    shift: Shift,
    apply: bool,
    estimator: str,
    disturbed: tuple[str, ...],
    unit: str,
) -> Measurement:
    estimate = group.estimate
    assert estimate is not None
    level = estimate.level[estimator][row : row + 1]
    offset, error = shift.at(level)
    used = float(offset[0]) if apply else 0.0
    extra = 1.96 * float(error[0]) if apply else 0.0
    below, above = (float(half[row]) for half in estimate.half_log[estimator])
    value = float(np.exp(level[0] - used))
    low = float(np.exp(level[0] - used - np.hypot(below, extra)))
    high = float(np.exp(level[0] - used + np.hypot(above, extra)))
    samples = np.concatenate([cell.samples for cell in cells])
    percentiles = percentiles_of(samples)
    halves = estimate.halves.get(estimator)
    return Measurement(
        key=cells[0].key,
        value=value,
        low=low,
        high=high,
        unit=unit,
        estimator=estimator + ("-shifted" if apply else ""),
        percentiles=percentiles,
        floor=percentiles["p1"],
        mad=median_deviation(samples),
        count=len(samples),
        rounds=len({cell.round for cell in cells}),
        grade=grade_of(value, low, high, not unknown_quality(disturbed)),
        disturbed=disturbed,
        raw_value=float(np.exp(estimate.level["p50-raw"][row])),
        corrected_value=float(np.exp(estimate.level["p50-corrected"][row] - offset[0])),
        halves=tuple(float(np.exp(half[row] - used)) for half in halves) if halves is not None else (),
    )
