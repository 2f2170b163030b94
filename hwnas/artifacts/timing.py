"""Latency of an exported file on its target, and the verdict on its budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hwnas.artifacts.records import BudgetEntry, Measured
from hwnas.artifacts.verification import ATTEMPTS, verdict
from hwnas.config import Budget
from hwnas.devices.models import ModelFiles
from hwnas.errors import ConfigError, MeasurementFailure
from hwnas.latency.measurement import Measurement
from hwnas.latency.measuring import measure_model
from hwnas.latency.protocol import Protocol
from hwnas.targets import Target

if TYPE_CHECKING:
    from hwnas.devices.session import Session

_MIN_ROUNDS = 8
_PAUSE_MS = 50.0
"""Pause between rounds: a measurement that does not converge outlasts a short slow phase of a shared host."""


def protocol_of(rounds: int) -> Protocol:
    """Return the protocol of one artifact's measurement: at most ``rounds`` rounds.

    A verdict may look at up to :data:`ATTEMPTS` measurements; each interval is so much wider that together they are wrong in
    at most 5 % (Bonferroni).
    """
    return Protocol(
        rounds=rounds,
        min_rounds=min(_MIN_ROUNDS, rounds),
        pause_ms=_PAUSE_MS,
        confidence=1.0 - 0.05 / ATTEMPTS,
        resamples=1000,
    )


def absolute(budget: Budget | None) -> Budget | None:
    """Return the budget if it is absolute.

    Raises:
        ConfigError: It is relative: whoever knows the reference must resolve it first.
    """
    if budget is not None and budget.max_ms is None:
        raise ConfigError(f"the budget {budget.relative} is relative; resolve it to max_ms before exporting.")
    return budget


def judge(
    session: Session,
    files: ModelFiles,
    target: Target,
    budget: Budget | None,
    protocol: Protocol,
    reference: Mapping[str, float] | None = None,
) -> tuple[Measured, tuple[BudgetEntry, ...]]:
    """Measure a file and give the verdict on its budget; without one it is measured once at the median.

    Args:
        session: Session of the target's device.
        files: The exported file.
        target: What it runs on.
        budget: An absolute budget, or None.
        protocol: How it is measured.
        reference: Canary latencies of the target's table: the condition budgets and predictions stand for.

    Raises:
        MeasurementFailure: It cannot be measured.
    """
    statistic = budget.statistic if budget else "p50"
    limit = budget.max_ms if budget else None

    def measure() -> Measurement:
        result = measure_model(session, files, target, protocol, statistic, reference=reference)
        if result.failure is not None:
            raise MeasurementFailure(*result.failure)
        return result

    if limit is None:
        return measured_entry(measure(), protocol), ()
    outcome = verdict(measure, limit, statistic)
    entry = BudgetEntry(
        statistic=budget.statistic if budget else "p50", max_ms=limit, verdict=outcome.kind, tries=outcome.tries
    )
    return measured_entry(outcome.decisive, protocol), (entry,)


def measured_entry(measurement: Measurement, protocol: Protocol) -> Measured:
    """Return what a manifest keeps of a measurement."""
    return Measured(
        value=measurement.value,
        low=measurement.low,
        high=measurement.high,
        confidence=protocol.confidence,
        unit=measurement.unit,
        statistic=measurement.statistic,
        percentiles=measurement.percentiles,
        grade=measurement.grade,
        disturbed=measurement.disturbed,
        rounds=measurement.rounds,
        count=measurement.count,
    )
