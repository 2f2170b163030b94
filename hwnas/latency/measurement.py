"""Records of measuring: what is to be measured, one burst, one result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwnas.devices.models import Burst, ModelFiles
from hwnas.latency.statistics import FloatArray

OnProgress = Callable[[float, str], None]
"""``on_progress(step, note)``: the steps of one piece of work add up to 1."""


_DECIMALS = 6


@dataclass(frozen=True)
class MeasureItem:
    """A network to measure.

    Attributes:
        key: Row key, unique in a session.
        files: Its files, or a function that builds them when the network is loaded.
        release: Called when the network is no longer loaded; may remove the files.
    """

    key: str
    files: ModelFiles | Callable[[], ModelFiles]
    release: Callable[[], None] | None = None

    def obtain(self) -> ModelFiles:
        """Return the files, built now if need be."""
        return self.files() if callable(self.files) else self.files


@dataclass(frozen=True)
class Cell:
    """One burst of one network in one unit of a session.

    Attributes:
        key: The network.
        group: Group of networks loaded together.
        round: Round of the session.
        epoch: How often the session had been started before (0: the first start).
        samples: Time of every run, in the session's unit.
        pressure: Share of the burst in which a task waited for a CPU; None where unknown.
        switches: Involuntary context switches during the burst; None where unknown.
        attempts: How often the burst was run, contended ones repeated.
        failure: ``(kind, detail)`` when it failed.
    """

    key: str
    group: int
    round: int
    epoch: int
    samples: FloatArray
    pressure: float | None = None
    switches: int | None = None
    attempts: int = 1
    failure: tuple[str, str] | None = None

    @property
    def unit(self) -> tuple[int, int, int]:
        """What shares one effect of the machine: group, round and epoch."""
        return (self.group, self.round, self.epoch)

    @classmethod
    def from_burst(cls, burst: Burst, key: str, unit: tuple[int, int, int], attempts: int) -> Cell:
        """Return the cell of a burst; samples are rounded to nanoseconds, as the journal keeps them."""
        group, number, epoch = unit
        samples: FloatArray = np.asarray(np.round(burst.samples, _DECIMALS), dtype=np.float64)
        return cls(
            key,
            group,
            number,
            epoch,
            samples,
            burst.pressure_share,
            burst.involuntary_switches,
            attempts,
            burst.failure,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what the journal keeps beside group, round and epoch."""
        samples = [float(value) for value in self.samples]
        entry: dict[str, Any] = {"key": self.key, "samples": samples, "attempts": self.attempts}
        entry |= {"pressure": self.pressure, "switches": self.switches}
        return entry | ({"failure": list(self.failure)} if self.failure else {})

    @classmethod
    def from_dict(cls, entry: dict[str, Any], unit: tuple[int, int, int]) -> Cell:
        """Read what :meth:`as_dict` wrote."""
        failure = entry.get("failure")
        return cls(
            entry["key"],
            *unit,
            np.asarray(entry["samples"], dtype=np.float64),
            entry["pressure"],
            entry["switches"],
            entry["attempts"],
            (failure[0], failure[1]) if failure else None,
        )


@dataclass(frozen=True)
class Measurement:
    """The latency of one network on one target.

    Attributes:
        key: Row key.
        value: Latency as it should be used: of ``statistic``, normalised to the reference condition where that was
            found to be better (see :mod:`hwnas.latency.measuring`); NaN on failure.
        low: Lower end of its confidence interval.
        high: Upper end of its confidence interval.
        unit: ``ms`` unless the device counts something else.
        statistic: Budget statistic that ``value`` stands for: ``p50``, ``p90`` or ``p99``.
        estimator: How ``value`` was formed, for example ``p10-corrected``.
        percentiles: ``p1``, ``p10``, ``p50``, ``p90``, ``p99`` over all raw samples.
        floor: 1st percentile over all raw samples.
        mad: Median absolute deviation of all raw samples.
        count: Number of raw samples.
        rounds: Rounds with at least one good burst.
        grade: ``A``, ``B`` or ``C`` by relative half-width.
        disturbed: What disturbed it: ``pressure``, ``switches``, ``drift``, ``spikes``, ``two_speeds``, ``throttling``,
            ``cold_start``, ``coarse_clock``, ``no_affinity``, ``no_pressure_information``, ``unconverged``.
        raw_value: Without any correction.
        corrected_value: Canary-corrected; equal to ``raw_value`` where there is nothing to correct by.
        halves: The estimate from even and from odd rounds, for test-retest; empty with fewer than four rounds.
        model_digest: sha256 of the measured files.
        load_ms: Time to open and compile the model on the device, milliseconds.
        failure: ``(kind, detail)`` when the network could not be measured.
    """

    key: str
    value: float
    low: float
    high: float
    unit: str = "ms"
    statistic: str = "p50"
    estimator: str = "p50-raw"
    percentiles: dict[str, float] = field(default_factory=dict)
    floor: float = float("nan")
    mad: float = float("nan")
    count: int = 0
    rounds: int = 0
    grade: str = "C"
    disturbed: tuple[str, ...] = ()
    raw_value: float = float("nan")
    corrected_value: float = float("nan")
    halves: tuple[float, ...] = ()
    model_digest: str = ""
    load_ms: float = float("nan")
    failure: tuple[str, str] | None = None

    @property
    def half_width(self) -> float:
        """Half-width of the interval relative to the value."""
        return (self.high - self.low) / (2.0 * self.value)

    @classmethod
    def failed(cls, key: str, kind: str, detail: str, unit: str = "ms") -> Measurement:
        """Return the record of a network that could not be measured."""
        nan = float("nan")
        return cls(key, nan, nan, nan, unit, failure=(kind, detail))
