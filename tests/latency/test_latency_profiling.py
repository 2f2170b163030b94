from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from latency_devices import QUICK, TARGET, DisturbedSession, truth_ms
from latency_samples import small_space

from hwnas.config import ProfileSection
from hwnas.devices.models import BurstSpec
from hwnas.errors import FingerprintMismatchError, RunFolderError, TableError
from hwnas.files import Journal
from hwnas.latency.analysis import analyse
from hwnas.latency.bursts import BURSTS_FILE, load_bursts
from hwnas.latency.canaries import CANARIES
from hwnas.latency.evaluation import evaluate
from hwnas.latency.model import LatencyModel
from hwnas.latency.networks import measure_encodings
from hwnas.latency.profile_plan import Cost, ProfilePlan, fit_budget
from hwnas.latency.profiling import ProfileReport, profile_target
from hwnas.latency.protocol import Protocol
from hwnas.latency.table import LatencyTable
from hwnas.spaces.base import unique_rows
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.targets import Target

SECTION = ProfileSection(networks=30, held_out=10, rounds=6)


@pytest.fixture(scope="module")
def report(space: MobileNetV3Space, tmp_path_factory: pytest.TempPathFactory) -> ProfileReport:
    folder = tmp_path_factory.mktemp("profile")
    return profile_target(TARGET, space, SECTION, folder, protocol=replace(QUICK, rounds=6))


def test_a_profile_is_a_table_that_a_model_is_fitted_on(
    report: ProfileReport, space: MobileNetV3Space, tmp_path: Path
) -> None:
    table = LatencyTable.load(report.table_path)
    assert table == report.table
    assert Counter(row.split for row in table.rows) == {"train": 30, "held_out": 10}
    assert report.failures == 0
    assert report.repeatability < 0.01
    for row in table.rows[:5]:
        assert row.latency == pytest.approx(truth_ms(space, row.encoding, tmp_path / row.key), rel=0.01)
    profiled = [row for row in table.rows if row.kernels]
    assert len(profiled) == report.plan.n_kernels
    assert all(row.split == "train" for row in profiled)
    blocks = {block.name for block in space.blocks(space.decode(np.array(profiled[0].encoding)))}
    assert set(profiled[0].kernels) - {""} == blocks
    scores = evaluate(LatencyModel.fit(table, space), table.measured("held_out"))
    assert scores.mape < 0.02
    assert scores.within_5 == 1.0


def test_raw_bursts_lie_beside_the_table(report: ProfileReport) -> None:
    with np.load(report.table_path.parent / BURSTS_FILE, allow_pickle=False) as bursts:
        assert set(CANARIES) <= set(bursts["keys"].tolist())
        assert int(bursts["length"].sum()) == len(bursts["samples"])
        assert len(bursts["key"]) == len(bursts["round"]) == len(bursts["pressure"])
    assert not (report.table_path.parent / "work").exists()
    text = report.table_path.read_text() + (report.table_path.parent / "plan.json").read_text()
    assert str(report.table_path.parent) not in text


def test_stored_bursts_give_the_same_values_again(report: ProfileReport, tmp_path: Path) -> None:
    cells = load_bursts(report.table_path.parent / BURSTS_FILE)
    result = analyse(cells, list(CANARIES), Protocol.from_dict(report.table.header.protocol))
    again = {measurement.key: measurement for measurement in result.measurements}
    assert result.estimator == report.estimator
    for row in report.table.measured():
        assert again[row.key].value == pytest.approx(row.latency, rel=1e-6)
    only = analyse(cells, list(CANARIES), Protocol.from_dict(report.table.header.protocol), estimators=["p10-lowest"])
    assert {measurement.estimator for measurement in only.measurements} == {"p10-lowest"}
    (tmp_path / "text.npz").write_bytes(b"no archive")
    (tmp_path / "cut.npz").write_bytes((report.table_path.parent / BURSTS_FILE).read_bytes()[:200])
    for path in (tmp_path / "text.npz", tmp_path / "cut.npz", tmp_path / "absent.npz"):
        with pytest.raises(TableError, match="Profile again"):
            load_bursts(path)


def test_giving_the_command_again_measures_nothing(report: ProfileReport, space: MobileNetV3Space) -> None:
    folder = report.table_path.parent
    before = report.table_path.read_bytes()
    lines = len((folder / "journal.jsonl").read_text().splitlines())
    again = profile_target(TARGET, space, SECTION, folder, protocol=replace(QUICK, rounds=6))
    assert report.table_path.read_bytes() == before
    assert len((folder / "journal.jsonl").read_text().splitlines()) == lines + 1
    assert again.table == report.table


def test_a_folder_of_another_profile_is_refused(report: ProfileReport, space: MobileNetV3Space) -> None:
    folder = report.table_path.parent
    with pytest.raises(RunFolderError, match="differs in section"):
        profile_target(TARGET, space, ProfileSection(networks=31, held_out=10, rounds=6), folder)
    other = MobileNetV3Space(**{**space.settings(), "classes": 7})
    with pytest.raises(RunFolderError, match="differs in space"):
        profile_target(TARGET, other, SECTION, folder)


def test_more_networks_join_the_table_at_its_reference(
    report: ProfileReport, space: MobileNetV3Space, tmp_path: Path
) -> None:
    known = tuple(np.array(row.encoding).tobytes() for row in report.table.rows)
    X = unique_rows(space.sample(np.random.default_rng(50), 60), known)[:6]
    with DisturbedSession(seed=9, step={"at_s": 0.0, "factor": 1.2}) as session:
        rows = measure_encodings(session, report.table, space, X, tmp_path)
        again = measure_encodings(session, report.table, space, X, tmp_path)
    assert rows == again
    for row, encoding in zip(rows, X, strict=True):
        assert row.split == "search"
        assert row.latency == pytest.approx(truth_ms(space, encoding, tmp_path / row.key), rel=0.02)
    assert len(report.table.with_rows(rows)) == len(report.table) + 6


def test_rows_of_another_machine_or_space_cannot_join(
    report: ProfileReport, space: MobileNetV3Space, tmp_path: Path
) -> None:
    X = space.sample(np.random.default_rng(1), 1)
    header = replace(report.table.header, target=replace(TARGET, precision="int8"))
    with DisturbedSession() as session:
        with pytest.raises(FingerprintMismatchError, match="precision"):
            measure_encodings(session, LatencyTable(header, report.table.rows), space, X, tmp_path)
        with pytest.raises(TableError, match="other settings"):
            measure_encodings(session, report.table, MobileNetV3Space(classes=3), X, tmp_path)


def plan_of(space: MobileNetV3Space, train: int, held_out: int) -> ProfilePlan:
    X = space.sample(np.random.default_rng(0), train + held_out)
    return ProfilePlan(X[:train], X[train:], 30, Protocol(rounds=12), 0.0, (), 1.0)


def test_a_time_budget_cuts_rounds_then_networks_and_says_so(space: MobileNetV3Space) -> None:
    cost = Cost(setup_s=0.3, burst_s=0.05, kernels_s=0.2)
    plan = plan_of(space, 120, 20)
    assert fit_budget(plan, cost, None).notes == ()
    whole = fit_budget(plan, cost, 10.0)
    assert whole.notes == ()
    assert whole.estimated_minutes == pytest.approx((140 * (0.3 + 12 * 0.05) + 30 * 0.2) / 60)
    fewer = fit_budget(plan, cost, 1.6)
    assert 5 <= fewer.protocol.rounds < 12
    assert len(fewer.train) == 120
    assert fewer.estimated_minutes <= 1.6
    assert "rounds" in fewer.notes[0]
    small = fit_budget(plan, cost, 0.6)
    assert small.protocol.rounds == 5
    assert 20 <= len(small.train) < 120
    assert 5 <= len(small.held_out) < 20
    assert small.n_kernels <= len(small.train)
    assert small.estimated_minutes <= 0.6
    assert np.array_equal(small.train, plan.train[: len(small.train)])
    assert "too few" in fit_budget(plan, cost, 0.01).notes[-1]
    assert ProfilePlan.from_dict(json.loads(json.dumps(small.as_dict()))).notes == small.notes


RUNNER = """
import sys, json
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
from latency_devices import QUICK, TARGET
from latency_samples import small_space
from hwnas.config import ProfileSection
from hwnas.latency.profiling import profile_target
protocol = replace(QUICK, rounds=6, pause_ms=40.0)
section = ProfileSection(networks=20, held_out=6, rounds=6)
print("started", flush=True)
profile_target(TARGET, small_space(), section, Path(sys.argv[1]), protocol=protocol)
"""


def _start(folder: Path, script: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def test_killed_at_random_moments_it_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    script = tmp_path / "runner.py"
    script.write_text(RUNNER.format(tests=str(Path(__file__).parent)))
    folder = tmp_path / "profile"
    rng = random.Random(7)
    journal = folder / "journal.jsonl"
    kills = 0
    for _ in range(4):
        process = _start(folder, script)
        size = journal.stat().st_size if journal.exists() else 0
        deadline = time.monotonic() + 60
        while (not journal.exists() or journal.stat().st_size <= size) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.12))
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert kills >= 2
    process = _start(folder, script)
    assert process.wait(timeout=120) == 0
    assert process.stdout is not None
    process.stdout.close()
    whole = tmp_path / "whole"
    calm = _start(whole, script)
    assert calm.wait(timeout=120) == 0
    assert calm.stdout is not None
    calm.stdout.close()
    killed, intact = LatencyTable.load(folder / "table.jsonl"), LatencyTable.load(whole / "table.jsonl")
    assert [(row.key, row.split) for row in killed.rows] == [(row.key, row.split) for row in intact.rows]
    assert all(row.measured and row.rounds == 6 for row in killed.rows)
    visits = Counter(
        (entry["key"], record["round"])
        for record in Journal(journal)
        if record["record"] == "bursts"
        for entry in record["cells"]
        if entry["key"] not in CANARIES
    )
    assert set(visits.values()) == {1}
    assert len(visits) == 26 * 6
    ratio = np.array([row.latency for row in killed.rows]) / np.array([row.latency for row in intact.rows])
    assert np.max(np.abs(ratio - 1)) < 0.02


def test_a_real_runtime_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    space = small_space()
    protocol = Protocol(rounds=4, burst=BurstSpec(target_ms=2.0, min_runs=5, max_runs=50, discard=1), canary_period=8)
    target = Target.parse("local/onnxruntime-fp32")
    report = profile_target(
        target, space, ProfileSection(networks=12, held_out=3, rounds=4), tmp_path, protocol=protocol
    )
    assert report.failures == 0
    assert len(report.table.measured("train")) == 12
    assert all(row.latency > 0 and row.rounds == 4 for row in report.table.measured())
    profiled = [row for row in report.table.rows if row.kernels]
    assert len(profiled) == 12
    for row in profiled:
        named = sum(value for name, value in row.kernels.items() if name)
        assert named > 0.5 * sum(row.kernels.values())
    model = LatencyModel.fit(report.table, space)
    model.save(tmp_path / "model")
    prediction = LatencyModel.load(tmp_path / "model", space, report.table.header.fingerprint).predict(
        np.stack([space.encode(space.smallest), space.encode(space.largest)])
    )
    assert prediction.value[0] < prediction.value[1]
