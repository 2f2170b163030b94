"""What disturbs a simulated device, and its virtual clock: faults by name, so that what should be found is known.

Faults stand in a model file (``"faults"``) or in the options of a load, which win:

- ``seed``; ``sigma``: log-normal noise of every run (0.01); ``burst_sigma``: the same of every burst (0);
- ``drift_per_s``: relative slow-down per second; ``ramp``: ``{"from_s", "to_s", "factor"}``, a straight line between;
- ``step``: ``{"at_s", "factor"}``; ``spikes``: ``{"probability", "ms"}``, runs that something else lengthens;
- ``modes``: ``{"factor", "dwell_s", "share"}``: for phases of ``dwell_s`` the device is fast or, with probability
  ``share``, slower by ``factor``;
- ``throttle``: ``{"factor", "after_s", "recovery_s"}``: slower after so much load, by ``factor`` after half as much again;
  heat falls with time constant ``recovery_s`` while nothing runs;
- ``tick_ms``: the clock that is read moves in such ticks;
- ``cold``: ``{"factor", "runs"}``: the first run after loading is slower by ``factor``, fading over ``runs`` runs;
- ``crash``, ``hang``, ``flood``, ``error``: ``"load"``, ``"run"`` or ``"burst"``, where it happens;
- ``precision``: what it falls back to; ``wrong_output``: true gives NaN.

All times are virtual seconds.
"""

from __future__ import annotations

import math
import os
import stat
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Tuple

import numpy as np

from hwnas_profilers.protocol import Failure
from hwnas_profilers.timing import BurstSpec

HEAT_LIMIT = 1.5
"""Heat, in units of ``after_s``, that more load does not raise."""

_KEYS: Dict[str, Tuple[str, ...]] = {
    "ramp": ("from_s", "to_s", "factor"),
    "step": ("at_s", "factor"),
    "spikes": ("probability", "ms"),
    "modes": ("factor", "dwell_s", "share"),
    "throttle": ("factor", "after_s", "recovery_s"),
    "cold": ("factor", "runs"),
}
_PLAIN = ("seed", "sigma", "burst_sigma", "drift_per_s", "tick_ms")
_BREAKS = ("crash", "hang", "flood", "error", "precision", "wrong_output")


@dataclass
class VirtualDevice:
    """The one device of a worker: its clock, the seconds of load that heat it still, and the bursts of every model so far.

    The bursts outlive a model: one that is loaded again goes on with new noise.
    """

    now_s: float = 0.0
    heat_s: float = 0.0
    bursts: Dict[int, int] = field(default_factory=dict)

    def rest(self, seconds: float, recovery_s: float = math.inf) -> None:
        """Let time pass without load."""
        self.now_s += seconds
        self.heat_s *= math.exp(-seconds / recovery_s)

    def work(self, seconds: float) -> None:
        """Let time pass under load."""
        self.now_s += seconds
        self.heat_s += seconds


DEVICE = VirtualDevice()


def check_faults(faults: Dict[str, Any]) -> Dict[str, Any]:
    """Return the faults.

    Raises:
        Failure: ``load_failed``, when one is not known or lacks a part.
    """
    known = (*_PLAIN, *_KEYS, *_BREAKS)
    for name, value in faults.items():
        if name not in known:
            raise Failure("load_failed", f"no simulated fault is called {name!r}; there are {', '.join(known)}")
        if name in _KEYS and value and set(value) != set(_KEYS[name]):
            raise Failure("load_failed", f"the simulated fault {name!r} needs {', '.join(_KEYS[name])}; given: {value}")
    return faults


def _uniform(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Return a uniform number in [0, 1) per integer, the same ones always (Steele et al. 2014, SplitMix64)."""
    with np.errstate(over="ignore"):
        state = (numbers.astype(np.uint64) + np.uint64(1 + 7919 * seed)) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return np.asarray((state >> np.uint64(11)).astype(np.float64) / 2.0**53)


def condition(faults: Dict[str, Any], now_s: np.ndarray, heat_s: np.ndarray) -> np.ndarray:
    """Return how much slower than undisturbed the device is at times ``now_s`` and with heat ``heat_s``, as factors."""
    slower = 1.0 + float(faults.get("drift_per_s", 0.0)) * now_s
    ramp, step, modes, throttle = (faults.get(name) for name in ("ramp", "step", "modes", "throttle"))
    if ramp:
        share = (now_s - float(ramp["from_s"])) / max(float(ramp["to_s"]) - float(ramp["from_s"]), 1e-9)
        slower = slower * (1.0 + (float(ramp["factor"]) - 1.0) * np.clip(share, 0.0, 1.0))
    if step:
        slower = slower * np.where(now_s >= float(step["at_s"]), float(step["factor"]), 1.0)
    if modes:
        phase = np.floor(now_s / float(modes["dwell_s"]))
        slow = _uniform(phase, int(faults.get("seed", 0))) < float(modes["share"])
        slower = slower * np.where(slow, float(modes["factor"]), 1.0)
    if throttle:
        hot = (heat_s / float(throttle["after_s"]) - 1.0) / (HEAT_LIMIT - 1.0)
        slower = slower * (1.0 + (float(throttle["factor"]) - 1.0) * np.clip(hot, 0.0, 1.0))
    return np.asarray(slower)


class DisturbedRuns:
    """Runs of one loaded model on the virtual device.

    Args:
        base_ms: Undisturbed latency of the model, milliseconds.
        faults: What disturbs it.
        seed: Seed of the model; the noise follows from it, the faults' own seed and the bursts before, not from other models.
    """

    def __init__(self, base_ms: float, faults: Dict[str, Any], seed: int) -> None:
        self.base_ms = base_ms
        self.faults = faults
        self._seed = seed
        self._runs = 0

    def rest(self, seconds: float) -> None:
        """Let the device idle."""
        DEVICE.rest(seconds, float((self.faults.get("throttle") or {}).get("recovery_s", math.inf)))

    def _durations(self, generator: np.random.Generator, level: float, count: int) -> np.ndarray:
        """Draw the milliseconds of the next runs, from now on."""
        faults = self.faults
        noise = level + float(faults.get("sigma", 0.01)) * generator.standard_normal(count)
        own = self.base_ms * np.exp(noise)
        if faults.get("cold"):
            past = (self._runs + np.arange(count)) / float(faults["cold"]["runs"])
            own = own * (1.0 + (float(faults["cold"]["factor"]) - 1.0) * np.exp(-past))
        more = np.zeros(count)
        if faults.get("spikes"):
            struck = generator.random(count) < float(faults["spikes"]["probability"])
            more = np.where(struck, float(faults["spikes"]["ms"]), 0.0)
        durations = own + more
        # when a run starts depends on how slow those before it were: three passes settle it
        for _ in range(3):
            passed = (np.cumsum(durations) - durations) / 1e3
            heat = DEVICE.heat_s + passed
            durations = own * condition(faults, DEVICE.now_s + passed, heat) + more
        return np.asarray(durations)

    def burst(self, spec: BurstSpec) -> Tuple[np.ndarray, float]:
        """Return the samples of one burst as the device's clock reads them, milliseconds, and when it began."""
        before = DEVICE.bursts.get(self._seed, 0)
        generator = np.random.default_rng([self._seed, int(self.faults.get("seed", 0)), before])
        DEVICE.bursts[self._seed] = before + 1
        level = float(self.faults.get("burst_sigma", 0.0)) * float(generator.standard_normal())
        if spec.discard:
            self._take(self._durations(generator, level, spec.discard))
        started_s = DEVICE.now_s
        samples = np.zeros(0)
        while not self._enough(samples, spec):
            likely = (spec.target_ms - float(samples.sum())) / self.base_ms
            count = int(min(max(likely + 4.0, spec.min_runs - len(samples), 1.0), spec.max_runs - len(samples)))
            durations = self._durations(generator, level, count)
            ends = float(samples.sum()) + np.cumsum(durations)
            over = np.flatnonzero((ends >= spec.target_ms) & (len(samples) + 1 + np.arange(count) >= spec.min_runs))
            durations = durations[: over[0] + 1] if len(over) else durations
            self._take(durations)
            samples = np.concatenate([samples, durations])
        return self._read(samples, started_s), started_s

    @staticmethod
    def _enough(samples: np.ndarray, spec: BurstSpec) -> bool:
        passed = float(samples.sum()) >= spec.target_ms
        return len(samples) >= spec.max_runs or (passed and len(samples) >= max(spec.min_runs, 1))

    def _take(self, durations: np.ndarray) -> None:
        DEVICE.work(float(durations.sum()) / 1e3)
        self._runs += len(durations)
        throttle = self.faults.get("throttle")
        if throttle:
            DEVICE.heat_s = min(DEVICE.heat_s, HEAT_LIMIT * float(throttle["after_s"]))

    def _read(self, samples: np.ndarray, started_s: float) -> np.ndarray:
        tick = float(self.faults.get("tick_ms", 0.0))
        if not tick:
            return samples
        ends = started_s * 1e3 + np.cumsum(samples)
        return np.asarray(np.diff(np.floor(np.concatenate([[started_s * 1e3], ends]) / tick)) * tick)

    def misbehave(self, where: str) -> None:
        """Break here, if that is planted.

        Raises:
            Failure: ``unsupported_op``, for the fault ``error``.
        """
        faults = self.faults
        if faults.get("crash") == where:
            sys.stderr.write("simulated: this process crashes now\n")
            sys.stderr.flush()
            os._exit(139)
        if faults.get("error") == where:
            raise Failure("unsupported_op", f"simulated failure while: {where}")
        if faults.get("flood") == where:
            _flood()
        while faults.get("hang") == where:
            time.sleep(3600)


def _flood() -> None:
    """Write garbage to standard output and to every pipe or socket there is, without end."""
    garbage = b"\xde\xad garbage that is no frame " * 512
    targets = [1]
    for number in range(3, 64):
        try:
            mode = os.fstat(number).st_mode
        except OSError:
            continue
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            targets.append(number)
    while targets:
        for number in list(targets):
            try:
                os.write(number, garbage)
            except OSError:
                targets.remove(number)
    os._exit(70)
