from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes import find_runtimes, simulated
from hwnas_profilers.runtimes.base import LoadSpec
from hwnas_profilers.timing import BurstSpec

DESCRIPTION: dict[str, Any] = {
    "macs": 4.0e7,
    "bytes": 8.0e5,
    "inputs": [{"name": "input", "shape": [1, 3, 8, 8], "dtype": "float32"}],
    "outputs": [{"name": "output", "shape": [1, 10], "dtype": "float32"}],
}
SPEC = BurstSpec(target_ms=25.0, min_runs=5, max_runs=1000, discard=2)


def load(folder: Path, change: dict[str, Any] | None = None, precision: str = "fp32", **options: Any) -> Any:
    path = folder / "net.sim.json"
    path.write_text(json.dumps({**DESCRIPTION, **(change or {})}))
    return simulated.RUNTIME.load(path, LoadSpec(precision, options=options))


@pytest.fixture(autouse=True)
def _fresh_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(simulated._CLOCK, "now_s", 0.0)


def test_latency_follows_the_description(tmp_path: Path) -> None:
    quick = load(tmp_path, sigma=0.0).burst(SPEC).samples_ms
    slow = load(tmp_path, {"macs": 8.0e7}, sigma=0.0).burst(SPEC).samples_ms
    small = load(tmp_path, precision="int8", sigma=0.0).burst(SPEC).samples_ms
    assert np.median(quick) == pytest.approx(simulated.OVERHEAD_MS + 2.0 + 0.1)
    assert np.median(slow) == pytest.approx(simulated.OVERHEAD_MS + 4.0 + 0.1)
    assert np.median(small) < np.median(quick)


def test_kernels_give_the_latency_when_they_are_described(tmp_path: Path) -> None:
    kernels = [{"name": "a", "op": "Conv", "ms": 1.5}, {"name": "b", "op": "Gemm", "ms": 0.5, "outputs": ["output"]}]
    model = load(tmp_path, {"kernels": kernels}, sigma=0.0)
    assert np.median(model.burst(SPEC).samples_ms) == pytest.approx(2.0 + simulated.OVERHEAD_MS)
    assert [(kernel.name, kernel.outputs) for kernel in model.kernels(3)] == [("a", ("a",)), ("b", ("output",))]


def test_the_same_seed_gives_the_same_samples_and_another_one_others(tmp_path: Path) -> None:
    first = load(tmp_path).burst(SPEC).samples_ms
    np.testing.assert_array_equal(first, load(tmp_path).burst(SPEC).samples_ms)
    assert not np.array_equal(first, load(tmp_path, seed=1).burst(SPEC).samples_ms)
    model = load(tmp_path)
    assert not np.array_equal(model.burst(SPEC).samples_ms, model.burst(SPEC).samples_ms)


def test_bursts_keep_their_bounds_in_virtual_time(tmp_path: Path) -> None:
    samples = load(tmp_path, sigma=0.0).burst(SPEC).samples_ms
    assert samples[:-1].sum() < 25.0 <= samples.sum()
    assert len(load(tmp_path).burst(BurstSpec(0.0, 9, 100, 0)).samples_ms) == 9
    assert len(load(tmp_path).burst(BurstSpec(1e9, 1, 30, 0)).samples_ms) == 30


def test_drift_steps_and_spikes_are_planted(tmp_path: Path) -> None:
    still = BurstSpec(target_ms=2000.0, min_runs=1, max_runs=10_000, discard=0)
    drifting = load(tmp_path, sigma=0.0, drift_per_s=0.1).burst(still).samples_ms
    assert drifting[-1] / drifting[0] == pytest.approx(1.2, rel=0.02)
    simulated._CLOCK["now_s"] = 0.0
    stepped = load(tmp_path, sigma=0.0, step={"at_s": 1.0, "factor": 1.5}).burst(still).samples_ms
    assert stepped[-1] / stepped[0] == pytest.approx(1.5)
    spiked = load(tmp_path, sigma=0.0, spikes={"probability": 0.1, "ms": 40.0}).burst(still).samples_ms
    share = float((spiked > 20).mean())
    assert 0.0 < share < 0.4


def test_outputs_depend_on_inputs_and_nan_is_planted(tmp_path: Path) -> None:
    model = load(tmp_path)
    zeros = {"input": np.zeros((1, 3, 8, 8), np.float32)}
    ones = {"input": np.ones((1, 3, 8, 8), np.float32)}
    np.testing.assert_array_equal(model.run(zeros)["output"], model.run(zeros)["output"])
    assert not np.array_equal(model.run(zeros)["output"], model.run(ones)["output"])
    assert np.isnan(load(tmp_path, wrong_output=True).run(zeros)["output"]).all()


def test_a_fallback_and_a_bad_file_are_failures(tmp_path: Path) -> None:
    path = tmp_path / "net.sim.json"
    path.write_text(json.dumps(DESCRIPTION))
    with pytest.raises(Failure, match="fallback"):
        simulated.RUNTIME.load(path, LoadSpec("int8", options={"precision": "fp32"}))
    (tmp_path / "bad.sim.json").write_text("{")
    with pytest.raises(Failure, match="load_failed"):
        simulated.RUNTIME.load(tmp_path / "bad.sim.json", LoadSpec("fp32"))


def test_runtimes_are_found_and_can_be_narrowed() -> None:
    assert {"onnxruntime", "openvino", "simulated", "torch"} <= find_runtimes().keys()
    assert list(find_runtimes(["simulated"])) == ["simulated"]
    assert find_runtimes()["simulated"].providers() == ("simulated",)
