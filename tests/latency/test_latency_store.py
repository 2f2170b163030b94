from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.errors import TableError
from hwnas.latency import store
from hwnas.latency.comparing import diff
from hwnas.latency.model import LatencyModel
from hwnas.latency.rows import LatencyRow
from hwnas.latency.table import LatencyTable
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.targets import Fingerprint, Target

TARGET = Target.parse("local/onnxruntime-fp32")


@pytest.fixture(autouse=True)
def _no_shipped_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "shipped_root", lambda: tmp_path / "shipped")


def place(table: LatencyTable, root: Path, space: MobileNetV3Space) -> Path:
    path = root / store.folder_name(table.target, space) / "table.jsonl"
    table.save(path)
    return path


def test_run_folder_comes_first_then_the_user_then_shipped(
    table: LatencyTable, space: MobileNetV3Space, tmp_path: Path
) -> None:
    here = table.header.fingerprint
    assert store.find_table(TARGET, space, here) is None
    with pytest.raises(TableError, match="hwnas profile --target local/onnxruntime-fp32-t1-b1"):
        store.require_table(TARGET, space, here)
    places = []
    for root in (store.shipped_root(), store.user_root(), store.run_root(tmp_path / "run")):
        place(table, root, space)
        found = store.require_table(TARGET, space, here, tmp_path / "run")
        places.append(found.place)
        assert found.load() == table
    assert places == ["shipped", "user", "run"]


def test_a_table_is_matched_by_machine_not_by_name(table: LatencyTable, space: MobileNetV3Space) -> None:
    named = replace(table.header, target=replace(TARGET, device="epyc-genoa"))
    place(LatencyTable(named, table.rows), store.shipped_root(), space)
    assert store.find_table(TARGET, space) is None
    found = store.find_table(TARGET, space, table.header.fingerprint)
    assert found is not None
    assert found.header.target.device == "epyc-genoa"
    other = Fingerprint({**table.header.fingerprint.identity, "cpu_model": "other"}, {})
    assert store.find_table(TARGET, space, other) is None
    with pytest.raises(TableError, match="other machines: epyc-genoa/onnxruntime-fp32"):
        store.require_table(TARGET, space, other)


@pytest.mark.parametrize("target", ["local/onnxruntime-int8", "local/openvino-fp32", "local/onnxruntime-fp32-t2"])
def test_other_targets_and_spaces_do_not_fit(table: LatencyTable, space: MobileNetV3Space, target: str) -> None:
    place(table, store.user_root(), space)
    assert store.find_table(TARGET, space) is not None
    assert store.find_table(Target.parse(target), space) is None
    assert store.find_table(TARGET, MobileNetV3Space(classes=10)) is None


def test_damaged_tables_are_listed_as_problems(table: LatencyTable, space: MobileNetV3Space) -> None:
    good = place(table, store.user_root(), space)
    bad = store.user_root() / "broken" / "table.jsonl"
    bad.parent.mkdir()
    bad.write_text("{}\n")
    tables, problems = store.list_tables()
    assert [entry.path for entry in tables] == [good]
    assert len(problems) == 1
    assert "broken" in problems[0]


def test_the_model_lies_beside_its_table(table: LatencyTable, space: MobileNetV3Space) -> None:
    place(table, store.user_root(), space)
    stored = store.require_table(TARGET, space)
    assert not stored.has_model
    with pytest.raises(TableError, match="hwnas fit"):
        stored.load_model(space)
    LatencyModel.fit(table, space, use_lut=False).save(stored.model_folder)
    assert stored.has_model
    assert stored.load_model(space, table.header.fingerprint).target == TARGET


def test_describe_and_diff(table: LatencyTable) -> None:
    facts = store.describe(table)
    assert facts["rows"] == len(table.rows)
    assert facts["held_out"] == 40
    assert facts["grades"] == {"A": len(table.rows), "B": 0, "C": 0}
    same = diff(table, table)
    assert (same["shared"], same["median_ratio"], same["largest_deviation"]) == (len(table.rows), 1.0, 0.0)
    canaries = {name: 1.1 * value for name, value in table.header.canaries.items()}
    slower = [replace(row, value=row.latency * 1.1, high=row.latency * 1.2) for row in table.rows[1:]]
    other = LatencyTable(replace(table.header, canaries=canaries), tuple(slower))
    changed = diff(table, other)
    assert changed["only_first"] == [table.rows[0].key]
    assert changed["median_ratio"] == pytest.approx(1.1)
    assert changed["median_ratio_canary_corrected"] == pytest.approx(1.0)
    assert changed["blocks"] == same["blocks"] == []


def test_a_block_that_moved_otherwise_is_named(table: LatencyTable, space: MobileNetV3Space) -> None:
    def upgraded(row: LatencyRow) -> LatencyRow:
        kernels = {name: 1.2 * (2.0 if name == "stem" else 1.0) * ms for name, ms in row.kernels.items()}
        value = row.latency * sum(kernels.values()) / sum(row.kernels.values())
        return replace(row, kernels=kernels, value=value, low=0.99 * value, high=1.01 * value)

    changed = diff(table, LatencyTable(table.header, tuple(upgraded(row) for row in table.rows)))
    assert {entry["block"].split(":")[0] for entry in changed["blocks"]} == {"stem"}
    for entry in changed["blocks"]:
        assert entry["second"] > entry["first"]
        assert entry["ratio"] == pytest.approx(2.0, rel=0.1)


def test_merging_files(table: LatencyTable, tmp_path: Path) -> None:
    LatencyTable(table.header, table.rows[:50]).save(tmp_path / "a.jsonl")
    LatencyTable(table.header, table.rows[40:]).save(tmp_path / "b.jsonl")
    merged = store.merge_files([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "c.jsonl")
    assert [row.key for row in LatencyTable.load(tmp_path / "c.jsonl").rows] == [row.key for row in table.rows]
    assert len(merged) == len(table)
    with pytest.raises(TableError, match="no table"):
        store.merge_files([], tmp_path / "d.jsonl")
