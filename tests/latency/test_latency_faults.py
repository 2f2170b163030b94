from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from latency_devices import TARGET, DisturbedSession

from hwnas.devices.models import Burst, BurstSpec, ModelFiles
from hwnas.files import Journal, write_json
from hwnas.latency.analysis import SessionResult
from hwnas.latency.clocks import middle_of, tick_of
from hwnas.latency.measurement import MeasureItem
from hwnas.latency.measuring import measure_session
from hwnas.latency.protocol import Protocol
from hwnas.latency.resident import MAX_WARM_UPS, WARM_UP
from hwnas.latency.statistics import clearly_positive, effects_matter, two_way_fit
from hwnas_profilers.runtimes.base import LoadSpec
from hwnas_profilers.runtimes.simulated import base_latency_ms

PROTOCOL = Protocol(rounds=12, burst=BurstSpec(target_ms=3.0, min_runs=5, max_runs=30, discard=1), resamples=100)
PAUSED = replace(PROTOCOL, pause_ms=300.0)
GROUPED = replace(PROTOCOL, max_resident=12)
NOISE = {"sigma": 0.02, "burst_sigma": 0.01}
CALM_ENDS_S = 1.0
"""When the session of the first twelve networks ends undisturbed, roughly."""


class VirtualSession(DisturbedSession):
    """Pauses pass on the device's clock; nothing is unloaded, for the worker ends with the session."""

    def __init__(self, folder: Path, **faults: Any) -> None:
        super().__init__(**{**NOISE, **faults})
        self.warm_ups = 0
        write_json(folder / "pause.sim.json", {"idle": True})
        self._pause = self.load(ModelFiles(folder / "pause.sim.json"), TARGET).handle

    def burst_round(self, handles: Sequence[str], spec: BurstSpec | None = None) -> list[Burst]:
        self.warm_ups += spec == WARM_UP
        return super().burst_round(handles, spec)

    def rest(self, pause_ms: float) -> None:
        self.burst_round([self._pause], BurstSpec(pause_ms, 1, 1, 0))

    def unload(self, handle: str) -> None:
        return


def measure(
    folder: Path, faults: Mapping[str, Any], protocol: Protocol = PROTOCOL, count: int = 12
) -> tuple[SessionResult, np.ndarray, int]:
    items, truth = [], []
    for number in range(count):
        path = folder / f"{number}.sim.json"
        described = {"macs": 2e6 * 1.2 ** (number % 12) * (1 + number / 100), "inputs": [], "outputs": []}
        write_json(path, described)
        items.append(MeasureItem(f"n{number:02d}", ModelFiles(path)))
        truth.append(base_latency_ms(described, LoadSpec("fp32")))
    with VirtualSession(folder, **faults) as session:
        result = measure_session(session, TARGET, items, protocol, Journal(folder / "j.jsonl"))
        return result, np.array([m.value for m in result.measurements]) / np.array(truth), session.warm_ups


FAULTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "calm": ({}, ()),
    "ramp": ({"ramp": {"from_s": 0.0, "to_s": CALM_ENDS_S, "factor": 1.25}}, ("drift",)),
    "late step": ({"step": {"at_s": 0.85 * CALM_ENDS_S, "factor": 1.25}}, ("drift",)),
    "spikes": ({"spikes": {"probability": 0.08, "ms": 3.0}}, ("spikes",)),
    "modes": ({"modes": {"factor": 1.25, "dwell_s": 0.03, "share": 0.5}}, ("two_speeds",)),
    "tick": ({"tick_ms": 0.03}, ("coarse_clock",)),
    "cold": ({"cold": {"factor": 2.5, "runs": 25.0}}, ("cold_start",)),
    "throttle": ({"throttle": {"factor": 1.3, "after_s": 0.025, "recovery_s": 0.05}}, ("throttling",)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_session_says_what_was_planted_and_nothing_else(tmp_path: Path, name: str) -> None:
    fault, words = FAULTS[name]
    result, ratio, _ = measure(tmp_path, fault, PAUSED if name == "throttle" else PROTOCOL)
    assert result.disturbed == words
    carried = [set(words) <= set(measurement.disturbed) for measurement in result.measurements]
    assert np.mean(carried) >= 0.5
    if name in ("calm", "spikes", "tick", "cold"):
        assert np.max(np.abs(ratio - 1)) < 0.04


def test_throttling_is_told_by_the_pauses_between_groups_and_is_drift_without_any(tmp_path: Path) -> None:
    fault = {"throttle": {"factor": 1.3, "after_s": 0.5, "recovery_s": 0.05}}
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    assert measure(tmp_path / "a", fault, GROUPED, count=24)[0].disturbed == ("throttling",)
    assert measure(tmp_path / "b", fault)[0].disturbed == ("drift",)


def test_cold_networks_are_warmed_up_until_they_are_warm_and_warm_ones_once(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    assert measure(tmp_path / "a", {})[2] == 1
    cold, _, warm_ups = measure(tmp_path / "b", {"cold": {"factor": 2.5, "runs": 25.0}})
    assert 3 <= warm_ups < MAX_WARM_UPS
    records = [record["record"] for record in Journal(tmp_path / "b" / "j.jsonl")]
    assert records.count("cold") == 1
    assert {measurement.grade for measurement in cold.measurements} == {"A"}


def test_a_tick_that_hides_the_noise_does_not_hide_the_uncertainty(tmp_path: Path) -> None:
    result, ratio, _ = measure(tmp_path, {"tick_ms": 0.2, "sigma": 0.0, "burst_sigma": 0.0})
    held = [m.low <= m.value / r <= m.high for m, r in zip(result.measurements, ratio, strict=True)]
    assert np.mean(held) >= 0.9
    assert "C" in {measurement.grade for measurement in result.measurements}


def test_ticks_are_read_from_samples() -> None:
    rng = np.random.default_rng(0)
    smooth = np.round(1.0 + 0.02 * rng.standard_normal(300), 6)
    assert tick_of(smooth) == 0.0
    assert tick_of(np.ones(300)) == 0.0
    for tick, error in ((0.05, 0.004), (0.005, 0.0015)):
        ends = np.floor(np.cumsum(1.013 + 0.002 * rng.standard_normal(400)) / tick) * tick
        read = np.round(np.diff(ends), 6)
        assert tick_of(read) == pytest.approx(tick, rel=0.01)
        assert middle_of(read, tick) == pytest.approx(1.013, abs=error)
    assert middle_of(smooth, 0.0) == np.median(smooth)


def test_rounds_are_corrected_for_only_where_they_differ_by_more_than_noise() -> None:
    rng = np.random.default_rng(1)
    reference = np.ones(30, dtype=bool)
    levels = rng.uniform(-1, 1, 30)[:, None]
    said = []
    for _ in range(40):
        logs = levels + 0.02 * rng.standard_normal((30, 12))
        said.append(effects_matter(two_way_fit(logs, reference), reference))
        logs[:, 6:] += 0.03
        assert effects_matter(two_way_fit(logs, reference), reference)
    assert sum(said) <= 2


def test_few_values_are_never_clear() -> None:
    assert clearly_positive([0.1] * 12, 0.005, 0.999)
    assert not clearly_positive([0.1] * 5, 0.005, 0.999)
    assert not clearly_positive([0.1, -0.1] * 10, 0.005, 0.999)
    assert not clearly_positive([], 0.005, 0.999)
