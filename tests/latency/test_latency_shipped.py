"""The tables and models that ship are read by the code they ship with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwnas import registry
from hwnas.kernels.predictor import KernelPredictor
from hwnas.latency.rows import encodings_of
from hwnas.latency.table import LatencyTable
from hwnas.latency.transferred import load_model

SHIPPED = sorted(path.parent for path in (Path(__file__).parents[2] / "latency_tables").rglob("table.jsonl"))


def test_tables_ship() -> None:
    assert len(SHIPPED) >= 7


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_a_shipped_model_predicts_what_was_measured(folder: Path) -> None:
    table = LatencyTable.load(folder / "table.jsonl")
    space = registry.load("space", table.header.space)(**table.header.settings)
    assert space.digest == table.header.space_digest
    rows = table.measured("train")[:20]
    y = np.array([row.latency for row in rows])
    if space.compositional:
        value = load_model(folder / "model", space, table.header.fingerprint).predict(encodings_of(rows)).value
    else:
        value = KernelPredictor.load(folder / "model", table.header.fingerprint).predict_rows(rows, space).value
    assert np.median(np.abs(value / y - 1.0)) < 0.1
    assert (folder / "README.md").read_text(encoding="utf-8").startswith(f"# {table.target}")
