"""Two model files against each other on one device: a paired test of latency on raw samples.

What a worker process happens to get (memory placement, core, cache colours) stays the same for all its life and differs
between two processes by some percent, so that rounds of one process are no independent evidence. Both files are therefore loaded
into several fresh processes; each gives one log ratio, and Student's t over the processes gives interval and p-value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from hwnas.devices.models import ModelFiles
from hwnas.errors import ConfigError, MeasurementFailure
from hwnas.latency.protocol import Protocol, is_time
from hwnas.latency.resident import unit_of, visit, warm_up
from hwnas.latency.statistics import PERCENTILES
from hwnas.progress import Advance
from hwnas.targets import Target

OLD, NEW = "old", "new"
LOADS = 8
ROUNDS = 6
_PAUSES = (0, 0, 0)


@dataclass(frozen=True)
class Duel:
    """How the latency of two files differs.

    Attributes:
        statistic: Percentile of the samples of each process that was compared.
        unit: Unit of ``old`` and ``new``.
        old: Median over the processes of the older file's statistic.
        new: The same of the newer file.
        ratio: ``new / old``, geometric mean over the processes.
        low: Lower end of the ratio's interval.
        high: Upper end.
        confidence: Of the interval.
        p_value: Two-sided, of a ratio of one.
        loads: Processes.
        margin: A ratio up to ``1 + margin`` is no difference.
    """

    statistic: str
    unit: str
    old: float
    new: float
    ratio: float
    low: float
    high: float
    confidence: float
    p_value: float
    loads: int
    margin: float

    @property
    def verdict(self) -> str:
        """``slower`` or ``faster`` where the whole interval lies beyond the margin, else ``no difference shown``."""
        if self.low > 1.0 + self.margin:
            return "slower"
        return "faster" if self.high < 1.0 / (1.0 + self.margin) else "no difference shown"


def ratio_test(logs: np.ndarray[Any, np.dtype[np.float64]], confidence: float) -> tuple[float, float, float, float]:
    """Return ratio, low, high and p-value of log ratios ``[loads]`` by Student's t; equal ones are taken as exact."""
    mean, count = float(np.mean(logs)), len(logs)
    error = float(np.std(logs, ddof=1)) / np.sqrt(count)
    if error < 1e-12:
        return float(np.exp(mean)), float(np.exp(mean)), float(np.exp(mean)), float(abs(mean) < 1e-12)
    half = float(stats.t.ppf(0.5 + confidence / 2.0, count - 1)) * error
    p_value = 2.0 * float(stats.t.sf(abs(mean) / error, count - 1))
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half)), p_value


def fight(
    open_session: Callable[[], Any],
    models: Mapping[str, tuple[ModelFiles, Target]],
    *,
    statistic: str = "p50",
    loads: int = LOADS,
    rounds: int = ROUNDS,
    confidence: float = 0.95,
    margin: float = 0.0,
    seed: int = 0,
    on_progress: Advance | None = None,
) -> Duel:
    """Measure two files in turn, in ``loads`` fresh worker processes.

    Args:
        open_session: Starts a worker on the device, as a context manager.
        models: :data:`OLD` and :data:`NEW` -> files and target.
        statistic: ``p50``, ``p90`` or ``p99`` of the samples of one process.
        loads: Processes, at least 3.
        rounds: Bursts of each file per process.
        confidence: Of the interval.
        margin: A ratio up to ``1 + margin`` is no difference.
        seed: Of the order.
        on_progress: Told of each process.

    Raises:
        ConfigError: Fewer than 3 processes, no round, a negative margin or an unknown statistic.
        MeasurementFailure: A file cannot be run.
        DeviceError: The device cannot be reached.
    """
    if loads < 3 or rounds < 1 or margin < 0:
        raise ConfigError(f"loads={loads} must be at least 3, rounds={rounds} at least 1, margin={margin} at least 0.")
    if statistic not in PERCENTILES:
        raise ConfigError(f"statistic={statistic!r} must be one of {', '.join(PERCENTILES)}.")
    generator = np.random.default_rng(seed)
    levels, unit = [], "ms"
    for load in range(loads):
        with open_session() as session, session.exclusive():
            unit = session.unit
            samples = _samples(session, models, rounds, generator)
        levels.append([float(np.percentile(samples[name], PERCENTILES[statistic])) for name in (OLD, NEW)])
        if on_progress is not None:
            on_progress(1.0, f"{load + 1} of {loads} processes")
    values = np.asarray(levels, dtype=np.float64)
    ratio, low, high, p_value = ratio_test(np.log(values[:, 1] / values[:, 0]), confidence)
    old, new = (float(level) for level in np.median(values, axis=0))
    return Duel(statistic, unit, old, new, ratio, low, high, confidence, p_value, loads, margin)


def _samples(
    session: Any, models: Mapping[str, tuple[ModelFiles, Target]], rounds: int, generator: np.random.Generator
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Return all samples of each file in one process."""
    names = [(OLD, NEW)[index] for index in generator.permutation(2)]
    handles = {name: session.load(*models[name]).handle for name in names}
    protocol = Protocol(rounds=rounds, min_rounds=rounds)
    if not is_time(unit_of(session)):
        protocol = protocol.for_unit(unit_of(session), rounds)
    warm_up(session, handles, _PAUSES)
    found: dict[str, list[Any]] = {OLD: [], NEW: []}
    for number in range(rounds):
        order = [names[index] for index in generator.permutation(2)]
        for cell in visit(session, handles, order, (0, number, 0), protocol):
            if cell.failure is not None:
                raise MeasurementFailure(cell.failure[0], f"the {cell.key} file: {cell.failure[1]}")
            found[cell.key].append(cell.samples)
    return {name: np.concatenate(parts) for name, parts in found.items()}
