from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from latency_devices import QUICK, TARGET, DisturbedSession, truth_ms

from hwnas.artifacts.verification import ATTEMPTS, verdict
from hwnas.backends.simulated import SimulatedBackend
from hwnas.devices.models import ModelFiles
from hwnas.files import Journal, write_json
from hwnas.latency.measurement import MeasureItem
from hwnas.latency.measuring import measure_model, measure_session
from hwnas.spaces.mobilenetv3 import MobileNetV3Space

PROTOCOL = replace(QUICK, rounds=20, min_rounds=6)


@pytest.fixture
def files(space: MobileNetV3Space, tmp_path: Path) -> ModelFiles:
    return SimulatedBackend().build_network(space.graph(space.largest), "fp32", tmp_path / "model")


@pytest.fixture
def truth(space: MobileNetV3Space, tmp_path: Path) -> float:
    return truth_ms(space, space.encode(space.largest), tmp_path / "truth")


@pytest.fixture
def reference(files: ModelFiles, tmp_path: Path) -> dict[str, float]:
    with DisturbedSession() as session:
        items = [MeasureItem("largest", files)]
        return measure_session(session, TARGET, items, QUICK, Journal(tmp_path / "r.jsonl")).canaries


def test_a_calm_device_is_measured_in_few_rounds(files: ModelFiles, truth: float, reference: dict[str, float]) -> None:
    with DisturbedSession(seed=4) as session:
        found = measure_model(session, files, TARGET, PROTOCOL, reference=reference)
    assert found.value == pytest.approx(truth, rel=0.01)
    assert found.low < found.value < found.high
    assert found.rounds < PROTOCOL.rounds
    assert found.grade == "A"
    assert found.disturbed == ()
    assert found.statistic == "p50"
    assert len(found.model_digest) == 64


def test_verdicts_agree_although_the_machine_does_not(
    files: ModelFiles, truth: float, reference: dict[str, float]
) -> None:
    values, raws = [], []
    for seed, factor in ((1, 1.0), (2, 1.09), (3, 0.94)):
        with DisturbedSession(seed=seed, step={"at_s": 0.0, "factor": factor}) as session:
            found = measure_model(session, files, TARGET, PROTOCOL, reference=reference)
        values.append(found.value)
        raws.append(found.raw_value)
        assert found.corrected_value == pytest.approx(truth, rel=0.015)
    assert np.max(values) / np.min(values) - 1 < 0.02
    assert np.max(raws) / np.min(raws) - 1 > 0.12


def test_without_a_reference_nothing_is_normalised(files: ModelFiles, truth: float) -> None:
    with DisturbedSession(seed=2, step={"at_s": 0.0, "factor": 1.2}) as session:
        found = measure_model(session, files, TARGET, PROTOCOL)
    assert found.value == found.raw_value == found.corrected_value
    assert found.value == pytest.approx(1.2 * truth, rel=0.01)
    assert found.estimator == "p50-raw"


def test_the_budgets_own_statistic_is_used(files: ModelFiles, truth: float) -> None:
    spikes = {"probability": 0.3, "ms": 1.0}
    with DisturbedSession(spikes=spikes) as session:
        median = measure_model(session, files, TARGET, PROTOCOL, "p50")
        tail = measure_model(session, files, TARGET, PROTOCOL, "p90")
    assert median.value == pytest.approx(truth, rel=0.03)
    assert tail.value == pytest.approx(truth + 1.0, rel=0.05)
    assert tail.value == tail.percentiles["p90"]
    with DisturbedSession() as session, pytest.raises(ValueError, match="p33"):
        measure_model(session, files, TARGET, PROTOCOL, "p33")


def test_noise_that_does_not_settle_is_said(files: ModelFiles) -> None:
    with DisturbedSession(sigma=0.6) as session:
        found = measure_model(session, files, TARGET, PROTOCOL)
    assert found.rounds == PROTOCOL.rounds
    assert "unconverged" in found.disturbed
    assert found.grade == "C"


@pytest.mark.timeout(120)
def test_a_model_exactly_on_its_budget_is_rarely_called_kept(files: ModelFiles, truth: float) -> None:
    protocol = replace(PROTOCOL, rounds=8, confidence=1 - 0.05 / ATTEMPTS, resamples=200)
    verdicts = []
    with DisturbedSession() as session:
        for seed in range(30):
            session.disturbances = {"seed": seed, "sigma": 0.05}
            verdicts.append(verdict(partial(measure_model, session, files, TARGET, protocol), truth, "p50").kind)
    assert verdicts.count("kept") <= 3


def test_a_model_that_fails_is_a_failure_not_a_number(files: ModelFiles, tmp_path: Path) -> None:
    with DisturbedSession() as session:
        for fault, kind in (({"error": "load"}, "unsupported_op"), ({"crash": "burst"}, "crashed")):
            path = tmp_path / f"{kind}.sim.json"
            write_json(path, {"macs": 1e6, "inputs": [], "outputs": [], "faults": fault})
            found = measure_model(session, ModelFiles(path), TARGET, PROTOCOL)
            assert found.failure is not None
            assert found.failure[0] == kind
            assert np.isnan(found.value)
        assert measure_model(session, files, TARGET, PROTOCOL).failure is None


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ({"step": {"at_s": 0.9, "factor": 1.25}}, "drift"),
        ({"cold": {"factor": 2.5, "runs": 40.0}}, "cold_start"),
        ({"tick_ms": 0.2}, "coarse_clock"),
    ],
    ids=["step", "cold", "tick"],
)
def test_what_disturbed_a_single_model_is_named(files: ModelFiles, fault: dict[str, object], word: str) -> None:
    steady = replace(PROTOCOL, min_rounds=PROTOCOL.rounds)
    with DisturbedSession(seed=3, **fault) as session:
        found = measure_model(session, files, TARGET, steady)
    assert word in found.disturbed


def test_a_coarse_clock_widens_the_interval(files: ModelFiles, truth: float) -> None:
    with DisturbedSession(seed=3, tick_ms=0.2, sigma=0.0, burst_sigma=0.0) as session:
        found = measure_model(session, files, TARGET, PROTOCOL)
    assert found.low <= truth <= found.high
    assert found.high - found.low > 0.01 * truth
