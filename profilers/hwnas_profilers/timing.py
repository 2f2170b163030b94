"""One burst: a few untimed runs, then timed runs until enough of them and enough time.

Protocol: ``docs`` of hwnas, measuring protocol. Nothing but the call and the clock stands in the timed region; garbage
collection is off; contention is seen by pressure-stall information and involuntary context switches.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import Callable, List, Optional

import numpy as np

from hwnas_profilers.counting import CLOCK, COUNTS

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

PRESSURE_FILE = "/proc/pressure/cpu"


@dataclass(frozen=True)
class BurstSpec:
    """How long a burst lasts: ``discard`` untimed runs, then ``min_runs`` to ``max_runs`` until ``target_ms``."""

    target_ms: float
    min_runs: int
    max_runs: int
    discard: int


@dataclass(frozen=True)
class BurstResult:
    """What a burst gave: samples in the unit of the clock (float64 ``[runs]``) and what disturbed it (None = not known)."""

    samples: np.ndarray
    started_s: float
    involuntary_switches: Optional[int] = None
    pressure_share: Optional[float] = None


def pressure_us() -> Optional[int]:
    """Return the microseconds, since boot, in which some task waited for a CPU; None where the system does not tell."""
    try:
        with open(PRESSURE_FILE, encoding="ascii") as stream:
            return int(stream.readline().rsplit("total=", 1)[1])
    except (OSError, IndexError, ValueError):
        return None


def involuntary_switches() -> Optional[int]:
    """Return how often threads of this process were preempted so far; None where the system does not tell."""
    if resource is None:
        return None
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)


def _timed_runs(step: Callable[[], object], spec: BurstSpec) -> List[int]:
    clock, now = CLOCK.read, time.perf_counter_ns
    samples: List[int] = []
    append = samples.append
    end = now() + int(spec.target_ms * 1e6)
    while True:
        start = clock()
        step()
        stop = clock()
        append(stop - start)
        count = len(samples)
        if count >= spec.max_runs or (now() >= end and count >= spec.min_runs):
            return samples


def burst(step: Callable[[], object], spec: BurstSpec) -> BurstResult:
    """Time ``step`` and say what disturbed it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(spec.discard):
            step()
        started = time.monotonic()
        pressure = pressure_us()
        switches = involuntary_switches()
        begin = time.perf_counter_ns()
        samples = _timed_runs(step, spec)
        elapsed_us = max((time.perf_counter_ns() - begin) / 1e3, 1.0)
        switches_after = involuntary_switches()
        pressure_after = pressure_us()
    finally:
        if was_enabled:
            gc.enable()
    values = np.asarray(samples, dtype=np.float64) / CLOCK.per_unit
    if COUNTS:
        return BurstResult(values, started)
    share = None
    if pressure is not None and pressure_after is not None:
        share = min(max((pressure_after - pressure) / elapsed_us, 0.0), 1.0)
    preempted = None
    if switches is not None and switches_after is not None:
        preempted = switches_after - switches
    return BurstResult(values, started, preempted, share)
