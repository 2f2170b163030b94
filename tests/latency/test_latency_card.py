from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from hwnas.latency.card import CARD
from hwnas.latency.table import LatencyTable
from hwnas.runs.profiling import fit_folder
from hwnas.spaces.mobilenetv3 import MobileNetV3Space


def card_of(table: LatencyTable, space: MobileNetV3Space, folder: Path) -> str:
    table.save(folder / "table.jsonl")
    fit_folder(folder, space)
    return (folder / CARD).read_text()


def test_the_card_says_what_was_measured_and_how_well_it_predicts(
    table: LatencyTable, space: MobileNetV3Space, tmp_path: Path
) -> None:
    session = {"drift": 0.123, "estimator": "p50-corrected"}
    text = card_of(replace(table, header=replace(table.header, session=session)), space, tmp_path)
    assert text.startswith("# local/onnxruntime-fp32")
    assert "80 to fit on, 40 to judge by" in text
    assert "| the machine drifted by | 12.3 % |" in text
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    rows = {
        cells[1]: cells[2:] for cells in (re.split(r" *\| *", line) for line in text.splitlines() if line[:1] == "|")
    }
    for name, scores in (
        ("**the model**", evaluation["metrics"]),
        ("line through multiply-accumulates", evaluation["baselines"]["macs"]),
        ("measured twice", evaluation["baselines"]["test_retest"]),
    ):
        assert rows[name][:3] == [f"{100 * scores[key]:.1f} %" for key in ("mape", "within_5", "within_10")]
    for value in table.header.fingerprint.identity.values():
        assert str(value if not isinstance(value, list) else value[0]) in text


def test_a_table_without_judges_says_so(table: LatencyTable, space: MobileNetV3Space, tmp_path: Path) -> None:
    text = card_of(replace(table, rows=table.measured("train")), space, tmp_path)
    assert "how good the model is, is not known" in text
    assert "| the machine drifted by | not known |" in text
