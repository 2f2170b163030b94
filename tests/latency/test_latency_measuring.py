from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from latency_devices import QUICK, TARGET, DisturbedSession, faulty, truth_ms

from hwnas.errors import RunFolderError
from hwnas.files import Journal
from hwnas.latency.analysis import contended, disturbances, spike_share
from hwnas.latency.canaries import CANARIES, canary_graph
from hwnas.latency.measurement import Cell, MeasureItem
from hwnas.latency.measuring import measure_model, measure_networks, measure_session, partition, schedule
from hwnas.latency.networks import Networks
from hwnas.latency.protocol import Protocol
from hwnas.spaces.base import unique_rows
from hwnas.spaces.mobilenetv3 import MobileNetV3Space


def networks_of(space: MobileNetV3Space, count: int, folder: Path) -> tuple[list[MeasureItem], np.ndarray]:
    X = unique_rows(space.sample(np.random.default_rng(0), 6 * count))[:count]
    networks = Networks(space, TARGET, folder / "work")
    return [networks.item(row) for row in X], np.array(
        [truth_ms(space, row, folder / "truth" / str(index)) for index, row in enumerate(X)]
    )


def test_values_are_the_truth_on_a_calm_device(space: MobileNetV3Space, tmp_path: Path) -> None:
    items, truth = networks_of(space, 14, tmp_path)
    with DisturbedSession() as session:
        result = measure_session(session, TARGET, items, QUICK, Journal(tmp_path / "j.jsonl"))
    values = np.array([measurement.value for measurement in result.measurements])
    assert [measurement.key for measurement in result.measurements] == [item.key for item in items]
    assert np.max(np.abs(values / truth - 1)) < 0.01
    assert {measurement.grade for measurement in result.measurements} == {"A"}
    assert all(measurement.disturbed == () for measurement in result.measurements)
    inside = [m.low <= t <= m.high for m, t in zip(result.measurements, truth, strict=True)]
    assert np.mean(inside) > 0.75
    assert set(result.canaries) == set(CANARIES)
    first = result.measurements[0]
    assert first.percentiles["p1"] == first.floor < first.percentiles["p50"] < first.percentiles["p99"]
    assert first.rounds == QUICK.rounds
    assert first.count >= 5 * QUICK.rounds
    assert len(first.model_digest) == 64
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize(
    "disturbance",
    [{"drift_per_s": 0.15}, {"step": {"at_s": 1.0, "factor": 1.25}}, {"spikes": {"probability": 0.1, "ms": 5.0}}],
    ids=["ramp", "step", "spikes"],
)
def test_drift_is_removed_and_flagged(space: MobileNetV3Space, tmp_path: Path, disturbance: dict[str, object]) -> None:
    items, truth = networks_of(space, 16, tmp_path)
    with DisturbedSession(**disturbance) as session:
        result = measure_session(session, TARGET, items, QUICK, Journal(tmp_path / "j.jsonl"))
    ratio = np.array([measurement.corrected_value for measurement in result.measurements]) / truth
    assert np.max(np.abs(ratio / np.median(ratio) - 1)) < 0.02
    flag = "spikes" if "spikes" in disturbance else "drift"
    assert np.mean([flag in measurement.disturbed for measurement in result.measurements]) > 0.7


def test_groups_are_linked_by_canaries(space: MobileNetV3Space, tmp_path: Path) -> None:
    items, truth = networks_of(space, 18, tmp_path)
    protocol = replace(QUICK, max_resident=6, passes=2)
    with DisturbedSession(drift_per_s=0.3) as session:
        result = measure_session(session, TARGET, items, protocol, Journal(tmp_path / "j.jsonl"))
    assert {cell.group for cell in result.cells} == {0, 1, 2}
    values = np.array([measurement.corrected_value for measurement in result.measurements])
    ratio = values / truth
    assert np.max(np.abs(ratio / np.median(ratio) - 1)) < 0.03


def test_failures_are_data_and_the_rest_goes_on(space: MobileNetV3Space, tmp_path: Path) -> None:
    items, truth = networks_of(space, 6, tmp_path)
    items[1] = faulty(items[1], error="load")
    items[2] = faulty(items[2], crash="burst")
    items[3] = faulty(items[3], crash="load")
    items[4] = faulty(items[4], precision="int8")
    with DisturbedSession() as session:
        found = measure_networks(session, TARGET, items, replace(QUICK, rounds=5), Journal(tmp_path / "j.jsonl"))
    kinds = [measurement.failure[0] if measurement.failure else None for measurement in found]
    assert kinds == [None, "unsupported_op", "crashed", "crashed", "fallback", None]
    assert found[0].value == pytest.approx(truth[0], rel=0.02)
    assert found[5].value == pytest.approx(truth[5], rel=0.02)
    assert np.isnan(found[1].value)


def test_the_same_journal_resumes_and_measures_nothing_twice(space: MobileNetV3Space, tmp_path: Path) -> None:
    items, _ = networks_of(space, 8, tmp_path)
    path = tmp_path / "j.jsonl"
    with DisturbedSession() as session:
        whole = measure_session(session, TARGET, items, QUICK, Journal(path))
        lines = path.read_text().splitlines()
        path.write_text("\n".join(lines[: len(lines) // 2]) + "\n" + lines[len(lines) // 2][:30])
        steps: list[float] = []
        resumed = measure_session(session, TARGET, items, QUICK, Journal(path), lambda step, note: steps.append(step))
        records = len(path.read_text().splitlines())
        again = measure_session(session, TARGET, items, QUICK, Journal(path))
    assert sum(steps) == pytest.approx(1.0)
    assert len(path.read_text().splitlines()) == records + 1
    assert [m.value for m in again.measurements] == [m.value for m in resumed.measurements]
    visits = [(cell.key, cell.round) for cell in resumed.cells if cell.key not in CANARIES]
    assert sorted(visits) == sorted((item.key, number) for item in items for number in range(QUICK.rounds))
    assert [m.key for m in resumed.measurements] == [m.key for m in whole.measurements]


def test_a_journal_of_other_work_is_refused(space: MobileNetV3Space, tmp_path: Path) -> None:
    items, _ = networks_of(space, 4, tmp_path)
    with DisturbedSession() as session:
        measure_session(session, TARGET, items, replace(QUICK, rounds=2), Journal(tmp_path / "j.jsonl"))
        with pytest.raises(RunFolderError, match="other networks"):
            measure_session(session, TARGET, items[:3], replace(QUICK, rounds=2), Journal(tmp_path / "j.jsonl"))
        with pytest.raises(ValueError, match="unique"):
            measure_session(session, TARGET, [*items, items[0]], QUICK, Journal(tmp_path / "k.jsonl"))


def test_a_slower_machine_is_normalised_to_the_reference(space: MobileNetV3Space, tmp_path: Path) -> None:
    items, truth = networks_of(space, 6, tmp_path)
    with DisturbedSession() as session:
        reference = measure_session(session, TARGET, items[:1], QUICK, Journal(tmp_path / "a.jsonl")).canaries
    with DisturbedSession(seed=1, step={"at_s": 0.0, "factor": 1.15}) as session:
        found = measure_networks(session, TARGET, items, QUICK, Journal(tmp_path / "b.jsonl"), reference=reference)
    for measurement, expected in zip(found, truth, strict=True):
        assert measurement.value == pytest.approx(expected, rel=0.02)
        assert measurement.raw_value == pytest.approx(1.15 * expected, rel=0.02)
        assert measurement.estimator.endswith("-shifted")


def test_schedule_spreads_every_group_over_the_session() -> None:
    protocol = Protocol(rounds=7, max_resident=10, passes=3)
    groups = partition([f"n{number}" for number in range(25)], protocol)
    assert sorted(map(len, groups)) == [8, 8, 9]
    assert sorted(key for group in groups for key in group) == sorted(f"n{number}" for number in range(25))
    order = schedule(3, protocol)
    assert [group for group, _ in order] == [0, 1, 2] * 3
    for group in range(3):
        assert [number for g, rounds in order if g == group for number in rounds] == list(range(7))
    assert schedule(1, protocol) == [(0, list(range(7)))]
    assert partition([], protocol) == [[]]


def cell(pressure: float | None, switches: int | None, samples: int = 10) -> Cell:
    return Cell("k", 0, 0, 0, np.ones(samples), pressure, switches)


def test_contention_and_its_names() -> None:
    protocol = Protocol()
    assert contended(cell(0.5, 0), protocol)
    assert contended(cell(0.0, 5), protocol)
    assert not contended(cell(0.01, 1), protocol)
    assert not contended(cell(None, None), protocol)
    assert disturbances([cell(0.5, 9)] * 3, protocol, moved=("drift",)) == ("pressure", "switches", "drift")
    assert disturbances([cell(None, None)], protocol, ["no affinity on this system"]) == (
        "no_affinity",
        "no_pressure_information",
    )
    assert disturbances([cell(0.5, 0), *[cell(0.0, 0)] * 9], protocol) == ()
    rng = np.random.default_rng(0)
    assert spike_share(np.concatenate([1 + 0.01 * rng.standard_normal(90), np.full(10, 5.0)])) == pytest.approx(0.1)


def test_cells_survive_json() -> None:
    bad = replace(cell(None, 3), failure=("crashed", "signal 11"))
    for entry in (cell(0.25, None), bad):
        again = Cell.from_dict(json.loads(json.dumps(entry.as_dict())), entry.unit)
        assert again.samples.tolist() == entry.samples.tolist()
        assert replace(again, samples=entry.samples) == entry


def test_canaries_differ_in_size_and_never_change() -> None:
    small, large, heavy = (canary_graph(name) for name in CANARIES)
    assert (small.macs, small.parameters) == (1080896, 8778)
    assert (large.macs, large.parameters) == (46736320, 191306)
    assert (heavy.macs, heavy.parameters) == (203538560, 3082250)


class CountingSession(DisturbedSession):
    """A device that says it counts instructions."""

    @property
    def unit(self) -> str:
        return "instructions"


def test_counted_runs_are_few_and_nothing_disturbs_them(space: MobileNetV3Space, tmp_path: Path) -> None:
    items, _ = networks_of(space, 14, tmp_path)
    with CountingSession(drift_per_s=0.5, sigma=0.0, burst_sigma=0.0) as session:
        result = measure_session(
            session, TARGET, items, QUICK, Journal(tmp_path / "j.jsonl"), reference={"canary-small-1": 1.0}
        )
        single = measure_model(session, items[0].obtain(), TARGET, QUICK, reference={"canary-small-1": 1.0})
    for measurement in (*result.measurements, single):
        assert measurement.unit == "instructions"
        assert measurement.disturbed in ((), ("unconverged",))
        assert "shifted" not in measurement.estimator
    assert {measurement.rounds for measurement in result.measurements} == {4}
    assert {measurement.count for measurement in result.measurements} == {4}
    assert {measurement.estimator for measurement in result.measurements} == {"p50-raw"}
