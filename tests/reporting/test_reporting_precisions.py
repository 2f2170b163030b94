from __future__ import annotations

import numpy as np
import pytest

from hwnas.reporting.precisions import latencies_of, precision_gaps

FP32, INT8 = "local/onnxruntime-fp32-t1-b1", "local/onnxruntime-int8-t1-b1"


def latencies(scale: float, noise: float = 0.02, count: int = 40, seed: int = 0) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {f"n{index}": float((1 + index) * scale * np.exp(rng.normal(0.0, noise))) for index in range(count)}


@pytest.mark.parametrize(
    ("scale", "faster", "words"),
    [(1.4, FP32, "int8 is slower here"), (0.6, INT8, "int8 is faster here"), (1.0, None, "neither faster nor slower")],
)
def test_the_faster_precision_is_named(scale: float, faster: str | None, words: str) -> None:
    (gap,) = precision_gaps({FP32: latencies(1.0), INT8: latencies(scale, seed=1)})
    assert gap.faster == faster
    assert gap.low < scale * 1.02
    assert gap.high > scale * 0.98
    assert words in gap.sentence
    assert gap.networks == 40
    if faster == FP32:
        assert f"For speed choose {FP32}" in gap.sentence


def test_the_order_of_the_targets_does_not_matter() -> None:
    one = precision_gaps({FP32: latencies(1.0), INT8: latencies(1.3, seed=1)})
    assert one == precision_gaps({INT8: latencies(1.3, seed=1), FP32: latencies(1.0)})


def test_other_settings_and_few_networks_are_not_compared() -> None:
    assert precision_gaps({FP32: latencies(1.0), "local/openvino-int8-t1-b1": latencies(2.0)}) == []
    assert precision_gaps({FP32: latencies(1.0), "local/onnxruntime-int8-t2-b1": latencies(2.0)}) == []
    assert precision_gaps({FP32: latencies(1.0), INT8: latencies(2.0, count=4)}) == []
    assert precision_gaps({"no target": latencies(1.0), FP32: latencies(1.0)}) == []


def test_rows_without_a_latency_are_left_out() -> None:
    rows = [{"schema": 1}, {"key": "a", "encoding": [1], "value": 2.0}, {"key": "b", "encoding": [2], "value": None}]
    assert latencies_of(rows) == {"a": 2.0}
