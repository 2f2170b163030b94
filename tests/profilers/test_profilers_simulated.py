from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes import find_runtimes, simulated
from hwnas_profilers.runtimes.base import LoadSpec
from hwnas_profilers.simulated_faults import DEVICE
from hwnas_profilers.simulated_truth import (
    CACHE_BYTES,
    LANES,
    LAUNCH_MS,
    MACS_PER_MS,
    OVERHEAD_MS,
    describe_kernels,
    move_ms,
)
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


def layer(name: str, source: str, op: str = "conv", channels: int = 16, **more: Any) -> dict[str, Any]:
    return {"name": name, "op": op, "inputs": [source], "shape": [channels, 8, 8], **more}


def kernels(*layers: dict[str, Any], precision: str = "fp32", batch: int = 1) -> Any:
    source = {"name": "input", "op": "input", "inputs": [], "shape": [3, 8, 8]}
    return describe_kernels({"layers": [source, *layers]}, precision, 1, batch)


def fresh_device() -> None:
    DEVICE.now_s = DEVICE.heat_s = 0.0
    DEVICE.bursts.clear()


@pytest.fixture(autouse=True)
def _fresh_device() -> None:
    fresh_device()


def test_latency_follows_the_totals(tmp_path: Path) -> None:
    quick = load(tmp_path, sigma=0.0).burst(SPEC).samples
    slow = load(tmp_path, {"macs": 8.0e7}, sigma=0.0).burst(SPEC).samples
    moving = load(tmp_path, {"bytes": 4.0e7}, sigma=0.0).burst(SPEC).samples
    small = load(tmp_path, precision="int8", sigma=0.0).burst(SPEC).samples
    assert np.median(quick) == pytest.approx(OVERHEAD_MS + 2.0)
    assert np.median(slow) == pytest.approx(OVERHEAD_MS + 4.0)
    assert np.median(moving) == pytest.approx(OVERHEAD_MS + move_ms(4.0e7))
    assert np.median(small) < np.median(quick)


def test_the_device_fuses_what_only_a_convolution_feeds_and_says_so(tmp_path: Path) -> None:
    stem = layer("stem", "input", macs=10**7)
    listed = [stem, layer("act", "stem", "relu"), layer("pool", "act", "global_pool"), layer("gate", "pool", "hswish")]
    model = load(tmp_path, {"layers": [{"name": "input", "op": "input", "inputs": [], "shape": [3, 8, 8]}, *listed]})
    found = model.kernels(3)
    assert [(kernel.op, kernel.fused) for kernel in found] == [
        ("conv", ("stem", "act")),
        ("global_pool", ("pool",)),
        ("hswish", ("gate",)),
    ]
    assert [kernel.outputs for kernel in found] == [("act",), ("pool",), ("gate",)]
    quiet = simulated.base_latency_ms({"layers": model_layers(tmp_path)}, LoadSpec("fp32"))
    assert quiet == pytest.approx(OVERHEAD_MS + sum(kernel.ms for kernel in found))
    forked = kernels(stem, layer("act", "stem", "relu"), layer("other", "stem", "relu"))
    assert len(forked) == 3
    assert sum(kernel.ms for kernel in forked) > sum(
        kernel.ms for kernel in kernels(stem, layer("act", "stem", "relu"))
    )


def model_layers(folder: Path) -> Any:
    return json.loads((folder / "net.sim.json").read_text())["layers"]


def test_channels_cost_by_whole_vectors() -> None:
    lanes = LANES["fp32"]

    def ms(channels: int) -> float:
        (kernel,) = kernels(layer("conv", "input", channels=channels, macs=10**6 * channels))
        return float(kernel.ms)

    assert ms(lanes) < ms(lanes + 1)
    assert ms(lanes + 1) == pytest.approx(ms(2 * lanes))
    assert ms(2 * lanes) == pytest.approx(LAUNCH_MS + 2 * lanes * 10**6 / MACS_PER_MS["fp32"])


def test_a_kernel_takes_the_longer_of_computing_and_moving_and_moving_has_a_knee() -> None:
    (bound,) = kernels(layer("conv", "input", macs=10, weights=10**6))
    assert bound.ms == pytest.approx(LAUNCH_MS + move_ms(4 * (3 * 64 + 16 * 64 + 10**6)))
    small, knee, large = (move_ms(CACHE_BYTES * factor) for factor in (0.5, 1.0, 1.5))
    assert knee - small < 0.5 * (large - knee)
    dense, depthwise = (kernels(layer("conv", "input", macs=10**7, groups=groups))[0].ms for groups in (1, 16))
    assert depthwise > 2 * dense


def test_the_same_seed_gives_the_same_samples_and_another_one_others(tmp_path: Path) -> None:
    first = load(tmp_path).burst(SPEC).samples
    again = load(tmp_path).burst(SPEC).samples
    assert not np.array_equal(first[:5], again[:5]), "a model that is loaded again must not repeat its noise"
    fresh_device()
    np.testing.assert_array_equal(first, load(tmp_path).burst(SPEC).samples)
    fresh_device()
    assert not np.array_equal(first[:5], load(tmp_path, seed=1).burst(SPEC).samples[:5])
    model = load(tmp_path)
    assert not np.array_equal(model.burst(SPEC).samples, model.burst(SPEC).samples)


def test_bursts_keep_their_bounds_in_virtual_time(tmp_path: Path) -> None:
    samples = load(tmp_path, sigma=0.0).burst(SPEC).samples
    assert samples[:-1].sum() < 25.0 <= samples.sum()
    assert len(load(tmp_path).burst(BurstSpec(0.0, 9, 100, 0)).samples) == 9
    assert len(load(tmp_path).burst(BurstSpec(1e9, 1, 30, 0)).samples) == 30


def test_drift_steps_and_spikes_are_planted(tmp_path: Path) -> None:
    still = BurstSpec(target_ms=2000.0, min_runs=1, max_runs=10_000, discard=0)
    drifting = load(tmp_path, sigma=0.0, drift_per_s=0.1).burst(still).samples
    assert drifting[-1] / drifting[0] == pytest.approx(1.2, rel=0.02)
    fresh_device()
    stepped = load(tmp_path, sigma=0.0, step={"at_s": 1.0, "factor": 1.5}).burst(still).samples
    assert stepped[-1] / stepped[0] == pytest.approx(1.5)
    spiked = load(tmp_path, sigma=0.0, spikes={"probability": 0.1, "ms": 40.0}).burst(still).samples
    share = float((spiked > 20).mean())
    assert 0.0 < share < 0.4


def test_a_ramp_ends_and_modes_come_and_go(tmp_path: Path) -> None:
    still = BurstSpec(target_ms=2000.0, min_runs=1, max_runs=10_000, discard=0)
    ramp = {"from_s": 0.5, "to_s": 1.0, "factor": 1.4}
    risen = load(tmp_path, sigma=0.0, ramp=ramp).burst(still).samples
    assert risen[0] == pytest.approx(risen[200])
    assert risen[-1] / risen[0] == pytest.approx(1.4)
    modes = {"factor": 1.3, "dwell_s": 0.1, "share": 0.5}
    ratio = load(tmp_path, sigma=0.0, modes=modes).burst(still).samples / (OVERHEAD_MS + 2.0)
    slow = ratio > 1.15
    np.testing.assert_allclose(ratio, np.where(slow, 1.3, 1.0), rtol=1e-6)
    assert 2 <= np.count_nonzero(np.diff(slow)) <= 20


def test_load_throttles_and_a_pause_recovers(tmp_path: Path) -> None:
    work = BurstSpec(target_ms=1000.0, min_runs=1, max_runs=10_000, discard=0)
    throttle = {"factor": 1.5, "after_s": 0.4, "recovery_s": 0.2}
    model = load(tmp_path, sigma=0.0, throttle=throttle)
    hot = model.burst(work).samples
    assert hot[-1] / hot[0] == pytest.approx(1.5)
    assert model.burst(SPEC).samples[0] == pytest.approx(hot[-1])
    (tmp_path / "pause.sim.json").write_text(json.dumps({"idle": True}))
    pause = simulated.RUNTIME.load(tmp_path / "pause.sim.json", LoadSpec("fp32", options={"throttle": throttle}))
    before = DEVICE.now_s
    assert pause.burst(BurstSpec(1000.0, 1, 1, 0)).samples.tolist() == [1000.0]
    assert DEVICE.now_s - before == pytest.approx(1.0)
    assert model.burst(SPEC).samples[0] == pytest.approx(hot[0])


def test_a_coarse_clock_reads_ticks_and_first_runs_are_cold(tmp_path: Path) -> None:
    read = load(tmp_path, sigma=0.0, tick_ms=0.3).burst(SPEC).samples
    np.testing.assert_allclose(read / 0.3, np.round(read / 0.3), atol=1e-6)
    assert np.mean(read) == pytest.approx(OVERHEAD_MS + 2.0, abs=0.05)
    model = load(tmp_path, sigma=0.0, cold={"factor": 3.0, "runs": 5.0})
    cold = model.burst(BurstSpec(1.0, 40, 40, 0)).samples
    assert cold[0] / (OVERHEAD_MS + 2.0) == pytest.approx(3.0)
    assert np.all(np.diff(cold) < 0)
    assert model.burst(SPEC).samples[-1] == pytest.approx(OVERHEAD_MS + 2.0, rel=0.01)


@pytest.mark.parametrize("faults", [{"drfit_per_s": 1.0}, {"step": {"at_s": 1.0}}])
def test_a_fault_that_is_not_known_or_lacks_a_part_is_told(tmp_path: Path, faults: dict[str, Any]) -> None:
    with pytest.raises(Failure, match=next(iter(faults))):
        load(tmp_path, **faults)


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
