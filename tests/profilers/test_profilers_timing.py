from __future__ import annotations

import gc
import time

import numpy as np
import pytest

from hwnas_profilers import affinity, timing
from hwnas_profilers.memory import PeakMemory
from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.openvino import warm_time
from hwnas_profilers.timing import BurstSpec, burst

MIB = 1024 * 1024


class Step:
    def __init__(self, sleep_s: float = 0.0) -> None:
        self.calls = 0
        self.collecting: set[bool] = set()
        self.sleep_s = sleep_s

    def __call__(self) -> None:
        self.calls += 1
        self.collecting.add(gc.isenabled())
        if self.sleep_s:
            time.sleep(self.sleep_s)


def test_a_burst_keeps_both_the_least_count_and_the_least_time() -> None:
    slow = Step(sleep_s=0.004)
    result = burst(slow, BurstSpec(target_ms=0.0, min_runs=4, max_runs=100, discard=3))
    assert len(result.samples) == 4
    assert slow.calls == 7
    quick = Step()
    result = burst(quick, BurstSpec(target_ms=5.0, min_runs=2, max_runs=10**9, discard=0))
    assert len(result.samples) > 2
    assert quick.calls == len(result.samples)


def test_a_burst_never_exceeds_its_most_runs() -> None:
    assert len(burst(Step(), BurstSpec(target_ms=1e6, min_runs=1, max_runs=7, discard=0)).samples) == 7


def test_samples_are_milliseconds_of_each_run() -> None:
    result = burst(Step(sleep_s=0.003), BurstSpec(target_ms=0.0, min_runs=5, max_runs=5, discard=0))
    assert result.samples.dtype == np.float64
    assert (result.samples >= 3.0).all()  # a sleep never ends early; a busy machine may end it late


def test_garbage_collection_is_off_inside_and_as_before_outside() -> None:
    step = Step()
    assert gc.isenabled()
    burst(step, BurstSpec(target_ms=0.0, min_runs=2, max_runs=2, discard=1))
    assert step.collecting == {False}
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        burst(lambda: 1 // 0, BurstSpec(target_ms=0.0, min_runs=1, max_runs=1, discard=0))
    assert gc.isenabled()


def test_disturbance_is_reported_where_the_system_tells() -> None:
    result = burst(Step(sleep_s=0.002), BurstSpec(target_ms=0.0, min_runs=3, max_runs=3, discard=0))
    if timing.pressure_us() is None:
        assert result.pressure_share is None
    else:
        assert result.pressure_share is not None
        assert 0.0 <= result.pressure_share <= 1.0
    assert result.involuntary_switches is None or result.involuntary_switches >= 0


def test_no_pressure_file_means_unknown_not_zero(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PRESSURE_FILE", f"{tmp_path}/absent")
    assert timing.pressure_us() is None
    result = burst(Step(), BurstSpec(target_ms=0.0, min_runs=1, max_runs=1, discard=0))
    assert result.pressure_share is None


def test_cores_are_the_last_allowed_ones_and_never_too_few() -> None:
    if affinity.ALLOWED is None:
        pytest.skip("this system has no thread affinity")
    assert affinity.choose_cores(1) == [affinity.ALLOWED[-1]]
    assert affinity.choose_cores(len(affinity.ALLOWED)) == affinity.ALLOWED
    with pytest.raises(Failure, match="fallback"):
        affinity.choose_cores(len(affinity.ALLOWED) + 1)


def test_peak_memory_sees_what_was_used_and_freed() -> None:
    if PeakMemory().growth_bytes() is None:
        pytest.skip("this system has no /proc/self/status")
    # The allocator serves these from its heap once it has seen one of them freed, and keeps them resident.
    for _ in range(3):
        kept = [np.ones(30 * MIB, dtype=np.uint8), np.ones(100)]
        del kept[0]
    peak = PeakMemory()
    block = np.ones(24 * MIB, dtype=np.uint8)
    del block
    growth = peak.growth_bytes()
    assert growth is not None
    assert 16 * MIB <= growth <= 40 * MIB


def means_of(times_ms: list[float]) -> list[float]:
    """A running mean in whole microseconds, as OpenVINO counts."""
    return [round(1e3 * float(np.mean(times_ms[: number + 1]))) / 1e3 for number in range(len(times_ms))]


def test_cold_and_disturbed_runs_are_taken_off_a_running_mean() -> None:
    rng = np.random.default_rng(0)
    warm = list(0.2 * (1 + 0.01 * rng.standard_normal(20)))
    assert warm_time(means_of([5.0, 0.9, 0.4, *warm])) == pytest.approx(0.2, rel=0.02)
    disturbed = [*warm[:9], 4.2, *warm[10:]]
    assert warm_time(means_of([5.0, 0.9, 0.4, *disturbed])) == pytest.approx(0.2, rel=0.03)
    assert warm_time(means_of([3.0, 0.5, 0.3, *([0.003] * 20)])) == pytest.approx(0.003, abs=0.001)
    assert warm_time([0.7]) == 0.7
