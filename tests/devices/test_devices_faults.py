"""A model that crashes, hangs or floods costs itself only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import write_simulated  # type: ignore[import-not-found]

from hwnas.devices.models import BurstSpec, ModelFiles
from hwnas.devices.session import Session, open_session
from hwnas.errors import DeviceError, MeasurementFailure
from hwnas.targets import Device, Target
from hwnas_profilers import protocol

SIM = Target("sim", "simulated", "fp32")
INPUT = {"input": np.ones((1, 4), np.float32)}
KINDS = {"crash": "crashed", "hang": "timeout", "flood": "crashed", "error": "unsupported_op"}


def alive(process_id: int) -> bool:
    """Say whether a process runs; one that ended but was not waited for yet does not."""
    try:
        os.kill(process_id, 0)
        return os.waitid(os.P_PID, process_id, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except (ProcessLookupError, ChildProcessError):
        return False


def dies(process_id: int, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not alive(process_id):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("fault", KINDS)
def test_a_faulty_model_fails_alone_and_the_round_goes_on(simulated: Session, tmp_path: Path, fault: str) -> None:
    good = simulated.load(write_simulated(tmp_path / "good.sim.json", macs=2.0e7), SIM).handle
    bad = simulated.load(write_simulated(tmp_path / "bad.sim.json", **{fault: "burst"}), SIM).handle
    last = simulated.load(write_simulated(tmp_path / "last.sim.json", macs=6.0e7), SIM).handle
    bursts = simulated.burst_round([good, bad, last, good], BurstSpec())
    assert [burst.handle for burst in bursts] == [good, bad, last, good]
    assert bursts[1].failure is not None
    assert bursts[1].failure[0] == KINDS[fault]
    assert len(bursts[1].samples) == 0
    for index, ms in ((0, 1.02), (2, 3.02), (3, 1.02)):
        assert bursts[index].failure is None
        assert np.median(bursts[index].samples) == pytest.approx(ms)
    assert simulated.restarts == (0 if fault == "error" else 1)


@pytest.mark.parametrize("fault", KINDS)
@pytest.mark.parametrize("where", ["load", "run"])
def test_a_fault_outside_a_round_is_raised_with_its_kind(
    simulated: Session, tmp_path: Path, fault: str, where: str
) -> None:
    good = simulated.load(write_simulated(tmp_path / "good.sim.json"), SIM).handle
    before = simulated.run(good, INPUT)["output"]
    with pytest.raises(MeasurementFailure) as caught:
        simulated.load(write_simulated(tmp_path / "bad.sim.json", **{fault: where}), SIM)
    assert caught.value.kind == KINDS[fault]
    np.testing.assert_array_equal(simulated.run(good, INPUT)["output"], before)


def test_several_faulty_models_of_one_round_each_keep_their_own_failure(simulated: Session, tmp_path: Path) -> None:
    planted = ["crash", None, "error", "crash", None, "flood"]
    handles = []
    for index, fault in enumerate(planted):
        faults = {} if fault is None else {fault: "burst"}
        handles.append(simulated.load(write_simulated(tmp_path / f"{index}.sim.json", **faults), SIM).handle)
    bursts = simulated.burst_round(handles, BurstSpec(min_runs=3))
    kinds = [None if burst.failure is None else burst.failure[0] for burst in bursts]
    assert kinds == [None if fault is None else KINDS[fault] for fault in planted]
    assert all(len(burst.samples) >= 3 for burst in bursts if burst.failure is None)


def test_the_message_holds_what_the_worker_said_last(simulated: Session, tmp_path: Path) -> None:
    with pytest.raises(MeasurementFailure, match="simulated: this process crashes now"):
        simulated.load(write_simulated(tmp_path / "bad.sim.json", crash="load"), SIM)


def test_nan_fallback_and_a_planted_option_are_failures(simulated: Session, tmp_path: Path) -> None:
    files = write_simulated(tmp_path / "a.sim.json")
    for options, kind in (({"wrong_output": True}, "wrong_output"), ({"precision": "bf16"}, "fallback")):
        with pytest.raises(MeasurementFailure) as caught:
            simulated.load(files, SIM, options=options)
        assert caught.value.kind == kind
    assert simulated.restarts == 0


def test_a_worker_killed_between_rounds_is_replaced(simulated: Session, tmp_path: Path) -> None:
    handles = [simulated.load(write_simulated(tmp_path / f"{index}.sim.json"), SIM).handle for index in range(3)]
    first = simulated.burst_round(handles)
    killed = simulated.worker_pid
    os.kill(killed, signal.SIGKILL)
    assert dies(killed, 5.0)
    second = simulated.burst_round(handles)
    assert simulated.worker_pid != killed
    assert simulated.restarts == 1
    for before, after in zip(first, second, strict=True):
        assert after.failure is None
        np.testing.assert_array_equal(before.samples, after.samples)


def test_a_worker_killed_inside_a_real_burst_costs_that_burst(nets: dict[str, ModelFiles]) -> None:
    pytest.importorskip("onnxruntime")
    target = Target("local", "onnxruntime", "fp32")
    with open_session(Device("local"), deadline_s=60.0) as session:
        handles = [session.load(nets["fp32"], target).handle for _ in range(3)]
        killer = threading.Timer(0.7, os.kill, (session.worker_pid, signal.SIGKILL))
        killer.start()
        bursts = session.burst_round(handles, BurstSpec(target_ms=500.0, max_runs=10**7))
        killer.join()
        failures = [burst.failure for burst in bursts if burst.failure is not None]
        assert len(failures) == 1
        assert failures[0][0] == "crashed"
        assert "SIGKILL" in failures[0][1]
        assert sum(len(burst.samples) > 0 for burst in bursts) == 2
        assert session.restarts == 1


def test_a_source_file_gone_before_a_restart_is_that_models_failure(simulated: Session, tmp_path: Path) -> None:
    stays = simulated.load(write_simulated(tmp_path / "stays.sim.json"), SIM).handle
    goes = simulated.load(write_simulated(tmp_path / "goes.sim.json", macs=3.0e7), SIM).handle
    (tmp_path / "goes.sim.json").unlink()
    assert all(burst.failure is None for burst in simulated.burst_round([stays, goes]))
    with pytest.raises(MeasurementFailure, match="crashed"):
        simulated.load(write_simulated(tmp_path / "bad.sim.json", crash="load"), SIM)
    bursts = simulated.burst_round([goes, stays])
    assert bursts[0].failure is not None
    assert bursts[0].failure[0] == "load_failed"
    assert "goes.sim.json" in bursts[0].failure[1]
    assert bursts[1].failure is None


def test_closing_ends_the_worker_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    session = open_session(Device("sim", transport="simulated"), deadline_s=10.0)
    session.load(write_simulated(tmp_path / "a.sim.json"), SIM)
    process = session.worker_pid
    assert [path for path in tmp_path.iterdir() if path.name.startswith("hwnas-agent-")]
    session.close()
    session.close()
    assert dies(process, 5.0)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("hwnas-agent-")]
    with pytest.raises(DeviceError, match="closed"):
        session.load(ModelFiles(tmp_path / "a.sim.json"), SIM)


def test_the_folder_of_a_killed_worker_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with open_session(Device("sim", transport="simulated"), deadline_s=10.0) as session:
        os.kill(session.worker_pid, signal.SIGKILL)
        assert dies(session.worker_pid, 5.0)
        left = {path for path in tmp_path.iterdir() if path.name.startswith("hwnas-agent-")}
        assert len(left) == 1
        with open_session(Device("sim", transport="simulated"), deadline_s=10.0):
            now = {path for path in tmp_path.iterdir() if path.name.startswith("hwnas-agent-")}
            assert len(now) == 1
            assert now != left


def test_a_hanging_worker_ends_soon_after_its_client_is_gone(tmp_path: Path) -> None:
    files = write_simulated(tmp_path / "a.sim.json", hang="burst")
    argv = [sys.executable, "-m", "hwnas_profilers", "--only", "simulated"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sha256 = protocol.hashlib.sha256(files.main.read_bytes()).hexdigest()
        entry = {"name": files.main.name, "sha256": sha256}
        load = {"cmd": "load", "handle": "m1", "runtime": "simulated", "precision": "fp32", "threads": 1, "batch": 1}
        spec = {"target_ms": 1.0, "min_runs": 1, "max_runs": 2, "discard": 0}
        process.stdin.write(protocol.encode_frame({"cmd": "put", "id": 1}, [files.main.read_bytes()]))
        process.stdin.write(protocol.encode_frame({**load, "id": 2, "files": [entry]}))
        process.stdin.write(protocol.encode_frame({"cmd": "burst", "id": 3, "handles": ["m1"], "spec": spec}))
        process.stdin.flush()
        for kind in ("reply", "reply", "progress"):
            frame = protocol.read_frame(process.stdout)  # type: ignore[arg-type]
            assert frame is not None
            assert frame.header["type"] == kind
            assert "failure" not in frame.header
        process.stdin.close()
        assert process.wait(timeout=60) == 3


def test_only_one_session_holds_the_machine_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with open_session(Device("local")) as one, open_session(Device("local")) as other:
        with one.exclusive():
            with one.exclusive():
                pass
            with pytest.raises(DeviceError, match=f"process {one.worker_pid}"), other.exclusive(wait_s=0.3):
                pass
        assert caplog.text.count("waiting for another profile") == 1
        with other.exclusive(wait_s=5.0):
            os.kill(other.worker_pid, signal.SIGKILL)
            assert dies(other.worker_pid, 5.0)
            with one.exclusive(wait_s=5.0):  # the lock of the dead is free
                pass
            other.load(write_simulated(tmp_path / "a.sim.json"), Target("local", "simulated", "fp32"))
            with pytest.raises(DeviceError, match="timing on device"), one.exclusive(wait_s=0.3):
                pass
