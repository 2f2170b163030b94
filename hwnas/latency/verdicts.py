"""Measuring one model for a verdict: the budget's own statistic, with an interval, under the reference condition.

The statistic is taken over all raw samples; its interval is a bootstrap over rounds, in which the correction by the
canaries (see :mod:`hwnas.latency.measuring`) is resampled along with the model, so that what both share cancels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.devices.models import ModelFiles
from hwnas.errors import DeviceError, MeasurementFailure
from hwnas.latency.analysis import disturbances, unknown_quality
from hwnas.latency.canaries import CANARIES, build_canaries
from hwnas.latency.clocks import middle_of, tick_of, unread_by
from hwnas.latency.estimation import Shift
from hwnas.latency.faults import find_faults
from hwnas.latency.measurement import Cell, Measurement
from hwnas.latency.protocol import Protocol, is_time
from hwnas.latency.resident import exclusive, files_digest, limits_of, unit_of, visit, warm_up
from hwnas.latency.statistics import (
    PERCENTILES,
    FloatArray,
    grade_of,
    interval_of,
    median_deviation,
    percentiles_of,
)
from hwnas.targets import Target

MODEL = "model"
"""Row key of the model under test."""

LOOK = 4
"""Rounds between two looks at the interval: each costs a bootstrap, and few looks bias it least."""

_FEWEST_ROUNDS = 3


class _Rounds:
    """Bursts by round of the model and the canaries, and what follows from them."""

    def __init__(self, protocol: Protocol, statistic: str, reference: Mapping[str, float] | None) -> None:
        self.protocol = protocol
        self.percent = PERCENTILES[statistic]
        self.statistic = statistic
        self.cells: list[Cell] = []
        self.cold = False
        self.model: list[FloatArray] = []
        self.canaries: list[list[float]] = []
        known = [(reference or {}).get(name, float("nan")) for name in CANARIES]
        self.reference: FloatArray = np.log(np.asarray(known, dtype=np.float64))

    def add(self, cells: dict[str, Cell]) -> None:
        self.cells += cells.values()
        self.model.append(cells[MODEL].samples)
        self.canaries.append([float(np.median(cells[name].samples)) for name in CANARIES])

    def _levels(self, logs: FloatArray, rounds: FloatArray, tick: float) -> tuple[float, FloatArray]:
        picked = [int(index) for index in rounds]
        samples = np.concatenate([self.model[index] for index in picked])
        median = self.percent == PERCENTILES["p50"]
        level = middle_of(samples, tick) if median else float(np.percentile(samples, self.percent))
        return float(np.log(level)), np.median(logs[picked], axis=0)

    def estimate(self) -> dict[str, float]:
        """Return raw, corrected and used value with the used one's interval."""
        protocol, count = self.protocol, len(self.model)
        rng = np.random.default_rng([protocol.seed, 3])
        logs = np.log(np.asarray(self.canaries))
        every = np.concatenate(self.model)
        tick = tick_of(every)
        level, here = self._levels(logs, np.arange(count, dtype=np.float64), tick)
        draws = [
            self._levels(logs, rng.integers(0, count, size=count).astype(np.float64), tick)
            for _ in range(protocol.resamples)
        ]
        levels = np.array([entry for entry, _ in draws])
        canary_draws = np.stack([entry for _, entry in draws])
        shift = Shift.between(here, np.std(canary_draws, axis=0), self.reference)
        corrected = level - float(shift.at(np.array([level]))[0][0])
        use = shift.significant
        if use:
            levels = levels - np.array(
                [
                    float(Shift.between(row, np.zeros_like(row), self.reference).at(np.array([entry]))[0][0])
                    for entry, row in zip(levels, canary_draws, strict=True)
                ]
            )
        used = corrected if use else level
        low, high = (
            float(end[0]) for end in interval_of(np.array([used]), levels[:, None], count, protocol.confidence)
        )
        unread = unread_by(tick, every, count) / float(np.exp(level))
        low, high = used - np.hypot(used - low, unread), used + np.hypot(high - used, unread)
        values = {"raw": level, "corrected": corrected, "value": used, "low": low, "high": high}
        return {name: float(np.exp(value)) for name, value in values.items()} | {"shifted": float(use)}

    def enough(self, values: dict[str, float]) -> bool:
        """Whether the interval is narrow enough.

        A budget has no say: stopping as soon as the interval lies on one side of it would let chance decide.
        """
        if len(self.model) < self.protocol.min_rounds:
            return False
        return (values["high"] - values["low"]) / (2.0 * values["value"]) <= self.protocol.target_half_width


def measure_model(
    session: Any,
    files: ModelFiles,
    target: Target,
    protocol: Protocol | None = None,
    statistic: str = "p50",
    *,
    reference: Mapping[str, float] | None = None,
) -> Measurement:
    """Measure one model with the canaries beside it.

    Stops when the interval's half-width is at most ``protocol.target_half_width``, which is looked at every
    :data:`LOOK` rounds, or after ``protocol.rounds`` rounds (then marked ``unconverged``).

    Args:
        session: Open session of the device.
        files: The model.
        target: What it runs on.
        protocol: How it is measured; 30 rounds unless given.
        statistic: The budget's statistic: ``p50``, ``p90`` or ``p99``.
        reference: Canary latencies of the target's latency table; without it nothing is normalised.

    Returns:
        The measurement; one with ``failure`` set if the model cannot be measured.

    Raises:
        DeviceError: A canary cannot be measured.
        ValueError: ``statistic`` is not one of those kept.
    """
    if statistic not in PERCENTILES:
        raise ValueError(f"statistic={statistic!r} must be one of {', '.join(PERCENTILES)}")
    protocol = protocol or Protocol(rounds=30)
    if not is_time(unit_of(session)):
        protocol, reference = protocol.for_unit(unit_of(session), protocol.rounds), None
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="hwnas-canaries-"))
        # some backends take a minute for it: nobody has to wait for that
        canaries = build_canaries(registry.load("backend", target.runtime), target, Path(folder))
        stack.enter_context(exclusive(session))
        handles: dict[str, str] = {}
        try:
            for name, built in canaries.items():
                handles[name] = _load_canary(session, name, built, target)
            try:
                loaded = session.load(files, target)
                handles[MODEL] = loaded.handle
                result = _measure(session, handles, _Rounds(protocol, statistic, reference))
            except MeasurementFailure as failure:
                return Measurement.failed(MODEL, failure.kind, failure.detail, unit_of(session))
        finally:
            for handle in handles.values():
                _unload(session, handle)
    return replace(result, model_digest=files_digest(files), load_ms=loaded.load_ms)


def _load_canary(session: Any, name: str, files: ModelFiles, target: Target) -> str:
    try:
        return str(session.load(files, target).handle)
    except MeasurementFailure as failure:
        raise DeviceError(f"{target} cannot load the reference network {name} ({failure}).") from failure


def _unload(session: Any, handle: str) -> None:
    try:
        session.unload(handle)
    except MeasurementFailure:
        return


def _measure(session: Any, handles: dict[str, str], rounds: _Rounds) -> Measurement:
    protocol = rounds.protocol
    rounds.cold = warm_up(session, handles, (0, -1, 0))
    failures: list[tuple[str, str]] = []
    values: dict[str, float] = {}
    converged = False
    for number in range(protocol.rounds):
        rng = np.random.default_rng([protocol.seed, 4, number])
        order = [list(handles)[index] for index in rng.permutation(len(handles))]
        cells = {cell.key: cell for cell in visit(session, handles, order, (0, number, 0), protocol)}
        failed = [cell.failure for cell in cells.values() if cell.failure is not None]
        if failed:
            failures += failed
            if len(failures) >= protocol.max_failures:
                raise MeasurementFailure(*failures[-1])
            continue
        rounds.add(cells)
        done = len(rounds.model)
        if done >= _FEWEST_ROUNDS and (done % LOOK == 0 or number == protocol.rounds - 1):
            values = rounds.estimate()
            converged = rounds.enough(values)
        if converged:
            break
        time.sleep(protocol.pause_ms / 1000.0)
    if not values and len(rounds.model) >= _FEWEST_ROUNDS:
        values = rounds.estimate()
    if not values:
        raise MeasurementFailure("unstable", f"fewer than {_FEWEST_ROUNDS} of {protocol.rounds} rounds succeeded")
    return _measurement(session, rounds, values, converged)


def _measurement(session: Any, rounds: _Rounds, values: dict[str, float], converged: bool) -> Measurement:
    samples = np.concatenate(rounds.model)
    disturbed: tuple[str, ...] = ()
    if is_time(unit_of(session)):
        own = [cell for cell in rounds.cells if cell.key == MODEL]
        moved = (*(("cold_start",) if rounds.cold else ()), *find_faults(rounds.cells, rounds.protocol))
        disturbed = disturbances(own, rounds.protocol, limits_of(session), moved)
    percentiles = percentiles_of(samples)
    good = not unknown_quality(disturbed)
    return Measurement(
        key=MODEL,
        value=values["value"],
        low=values["low"],
        high=values["high"],
        unit=unit_of(session),
        statistic=rounds.statistic,
        estimator=f"{rounds.statistic}-raw" + ("-shifted" if values["shifted"] else ""),
        percentiles=percentiles,
        floor=percentiles["p1"],
        mad=median_deviation(samples),
        count=len(samples),
        rounds=len(rounds.model),
        grade=grade_of(values["value"], values["low"], values["high"], good),
        disturbed=disturbed + (() if converged else ("unconverged",)),
        raw_value=values["raw"],
        corrected_value=values["corrected"],
    )
