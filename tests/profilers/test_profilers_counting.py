from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwnas_profilers.counting import COUNTER_VARIABLE, InstructionCounter, WallClock

IN_ANOTHER_PROCESS = """
from hwnas_profilers import counting, fingerprint
from hwnas_profilers.timing import BurstSpec, burst

with open({path!r}, "r+b") as stream:
    done = 0

    def step():
        global done
        done += 1000
        stream.seek(0)
        stream.write(done.to_bytes(8, "{order}"))
        stream.flush()

    result = burst(step, BurstSpec(target_ms=0.0, min_runs=3, max_runs=3, discard=1))
print(counting.CLOCK.unit, result.samples.tolist(), result.pressure_share, result.involuntary_switches)
print(fingerprint.identity()["counts"], fingerprint.limits())
"""


def test_the_counter_is_read_while_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_bytes((7).to_bytes(8, sys.byteorder))
    counter = InstructionCounter(str(path))
    assert counter.read() == 7
    with path.open("r+b") as stream:
        stream.write((2**40 + 1).to_bytes(8, sys.byteorder))
    assert counter.read() == 2**40 + 1


def test_a_file_too_short_for_a_count(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_bytes(b"123")
    with pytest.raises(ValueError, match="mmap"):
        InstructionCounter(str(path))
    with pytest.raises(FileNotFoundError):
        InstructionCounter(str(tmp_path / "nothing"))


def test_time_is_measured_where_nothing_counts() -> None:
    before = time.perf_counter_ns()
    assert before <= WallClock.read() <= time.perf_counter_ns()
    assert WallClock.unit == "ms"


def test_a_burst_counts_where_the_environment_names_a_counter(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_bytes(bytes(8))
    code = IN_ANOTHER_PROCESS.format(path=str(path), order=sys.byteorder)
    environment = {COUNTER_VARIABLE: str(path), "PATH": "/usr/bin:/bin"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert said.splitlines() == ["instructions [1000.0, 1000.0, 1000.0] None None", "instructions []"]
