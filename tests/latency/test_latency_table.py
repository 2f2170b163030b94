from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.errors import FingerprintMismatchError, TableError
from hwnas.latency.measurement import Measurement
from hwnas.latency.rows import LatencyRow
from hwnas.latency.table import LatencyTable
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.targets import Fingerprint


def edited(path: Path, line: int, **changes: Any) -> None:
    lines = path.read_text().splitlines()
    row = json.loads(lines[line - 1])
    for name, value in changes.items():
        if value is KeyError:
            row.pop(name)
        else:
            row[name] = value
    lines[line - 1] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def path(table: LatencyTable, tmp_path: Path) -> Path:
    target = tmp_path / "table.jsonl"
    table.save(target)
    return target


def test_round_trip_is_exact_and_sorted(table: LatencyTable, path: Path) -> None:
    loaded = LatencyTable.load(path)
    assert loaded == table
    keys = [row.key for row in loaded.rows]
    assert keys == sorted(keys)
    before = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == before


def test_order_of_rows_does_not_change_the_file(table: LatencyTable, path: Path, tmp_path: Path) -> None:
    LatencyTable(table.header, tuple(reversed(table.rows))).save(tmp_path / "other.jsonl")
    assert (tmp_path / "other.jsonl").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": float("nan")}, "value=nan must be positive"),
        ({"value": 0}, "value=0 must be positive"),
        ({"value": -1.5}, "value=-1.5 must be positive"),
        ({"value": "fast"}, "must be positive"),
        ({"value": True}, "must be positive"),
        ({"low": 1e9}, "must ascend"),
        ({"identity": KeyError}, "identity"),
        ({"identity": ""}, "identity"),
        ({"context": KeyError}, "context"),
        ({"model_digest": ""}, "model_digest"),
        ({"encoding": KeyError}, "encoding"),
        ({"encoding": [0.5, 1]}, "encoding must be integers"),
        ({"grade": "D"}, "grade='D'"),
        ({"split": "tuesday"}, "split must be one of"),
        ({"count": 0}, "count=0"),
        ({"percentiles": {"p50": -1}}, "percentiles"),
        ({"kernels": {"stem": -1}}, "kernel times"),
        ({"kernels": 5}, "kernel times"),
        ({"identity": "0" * 64}, "another machine"),
        ({"colour": "red"}, "unknown field 'colour'"),
    ],
)
def test_bad_rows_are_refused_with_their_line(path: Path, changes: dict[str, Any], message: str) -> None:
    edited(path, 3, **changes)
    with pytest.raises(TableError, match=message) as caught:
        LatencyTable.load(path)
    assert "line 3" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 99}, "schema 1, got 99"),
        ({"target": "nonsense"}, "header is damaged"),
        ({"canaries": {"canary-small-1": -1}}, "canary-small-1"),
        ({"fingerprint": {"identity": {"cpu_model": "faster"}, "context": {}}}, "altered"),
        ({"space": KeyError}, "header is damaged"),
    ],
)
def test_bad_headers_are_refused(path: Path, changes: dict[str, Any], message: str) -> None:
    edited(path, 1, **changes)
    with pytest.raises(TableError, match=message):
        LatencyTable.load(path)


def test_cut_corrupt_empty_and_absent_files(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    for cut in (1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(TableError, match="line"):
            LatencyTable.load(path)
    path.write_bytes(data[: len(data) // 3] + b"\xff\xfe" + data[len(data) // 3 :])
    with pytest.raises(TableError, match="cannot be read"):
        LatencyTable.load(path)
    path.write_text("")
    with pytest.raises(TableError, match="cut short"):
        LatencyTable.load(path)
    path.write_text("[1]\n")
    with pytest.raises(TableError, match="JSON object"):
        LatencyTable.load(path)
    with pytest.raises(TableError, match="does not exist"):
        LatencyTable.load(tmp_path / "none.jsonl")


def test_a_row_twice_is_refused(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(TableError, match="stands on line 2 already"):
        LatencyTable.load(path)


def test_foreign_space_and_machine_are_refused(table: LatencyTable, space: MobileNetV3Space) -> None:
    table.require(space, table.header.fingerprint)
    with pytest.raises(TableError, match="other settings"):
        table.require(MobileNetV3Space(classes=10))
    other = Fingerprint({**table.header.fingerprint.identity, "cpu_model": "other"}, {})
    with pytest.raises(FingerprintMismatchError, match="cpu_model"):
        table.require(space, other)
    context_only = Fingerprint(table.header.fingerprint.identity, {"kernel": "9.9"})
    table.require(space, context_only)


def test_merge_brings_rows_to_one_condition(table: LatencyTable) -> None:
    half = len(table.rows) // 2
    slow = replace(table.header, canaries={name: 1.25 * value for name, value in table.header.canaries.items()})
    scaled = []
    for row in table.rows[half:]:
        numbers = {
            name: getattr(row, name) * 1.25
            for name in ("value", "low", "high", "corrected_value", "raw_value", "floor")
        }
        scaled.append(replace(row, **numbers))
    merged = LatencyTable(table.header, table.rows[:half]).merge(LatencyTable(slow, tuple(scaled)))
    assert [row.key for row in merged.rows] == [row.key for row in table.rows]
    assert np.allclose([row.latency for row in merged.rows], [row.latency for row in table.rows])


def test_merge_refuses_strangers(table: LatencyTable) -> None:
    unlinked = LatencyTable(replace(table.header, canaries={"other": 1.0}), table.rows)
    with pytest.raises(TableError, match="share no canary"):
        table.merge(unlinked)
    with pytest.raises(TableError, match="different spaces"):
        table.merge(LatencyTable(replace(table.header, space_digest="0" * 64), ()))


def test_better_rows_replace_worse_ones_and_keep_their_split(table: LatencyTable) -> None:
    row = table.measured("held_out")[0]
    worse = replace(row, grade="C", split="search", value=row.latency * 1.001)
    assert table.with_rows([worse]) == table
    better = replace(row, count=10_000, split="search", value=row.latency * 1.001)
    replaced = {entry.key: entry for entry in table.with_rows([better]).rows}[row.key]
    assert replaced.value == better.value
    assert replaced.split == "held_out"


def test_failures_are_rows_too(table: LatencyTable, path: Path, space: MobileNetV3Space) -> None:
    encoding = space.sample(np.random.default_rng(99), 1)[0]
    failed = Measurement.failed(space.id_of(encoding), "crashed", "signal 11")
    row = LatencyRow.from_measurement(failed, encoding, "train", table.header.fingerprint)
    table.with_rows([row]).save(path)
    loaded = LatencyTable.load(path)
    assert [entry.failure for entry in loaded.failures] == [("crashed", "signal 11")]
    assert len(loaded.measured()) == len(table.rows)
    with pytest.raises(ValueError, match="no latency"):
        _ = loaded.failures[0].latency
